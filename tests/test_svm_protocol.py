"""How C is chosen and what is held out: a linear SVM on features that are made by hand."""

from typing import Any

import numpy as np
import pytest

from dcgan_jax.evaluation import l2_svm, svm_protocol
from dcgan_jax.evaluation.svm_protocol import Protocol, Split


def test_a_draw_has_as_many_of_every_class() -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    drawn = svm_protocol.draw_per_class(labels, 5, np.random.default_rng(0))
    assert len(set(drawn)) == 15
    np.testing.assert_array_equal(np.bincount(labels[drawn]), [5, 5, 5])


def split(count: int, seed: int) -> Split:
    """Three classes; two features tell them apart, the other 30 are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    features = rng.normal(0, 0.5, (count, 32)).astype(np.float32)
    features[np.arange(count), np.minimum(labels, 1)] += np.where(labels < 2, 3, 0)
    return Split(features, labels.astype(np.int32))


def test_all_labels_beat_few_and_few_have_a_spread() -> None:
    train, test = split(600, 0), split(300, 1)
    everything = svm_protocol.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 0, 4, 4, 0), "")
    few = svm_protocol.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 5, 4, 4, 0), "")
    assert everything["accuracy"] > 0.95 > few["accuracy"] > 0.5
    assert everything["std"] is None and few["std"] > 0
    assert everything["c"] in (1e-3, 1e-1) and len(everything["held_out"]) == 2
    again = svm_protocol.evaluate(train, test, 3, Protocol((1e-3, 1e-1), 5, 4, 4, 0), "")
    assert few | {"fit_seconds": 0} == again | {"fit_seconds": 0}


class Spy:
    """Which examples were fitted and which scored, call by call: every one has a number as its first feature."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitted: list[list[int]] = []
        self.scored: list[list[int]] = []
        fit, scores = l2_svm.fit, l2_svm.LinearClassifier.scores

        def spied_fit(x: Any, *args: Any, **options: Any) -> l2_svm.LinearClassifier:
            self.fitted.append(np.asarray(x)[:, 0].astype(int).tolist())
            return fit(x, *args, **options)

        def spied_scores(classifier: l2_svm.LinearClassifier, x: Any) -> np.ndarray:
            self.scored.append(np.asarray(x)[:, 0].astype(int).tolist())
            return scores(classifier, x)

        monkeypatch.setattr(l2_svm, "fit", spied_fit)
        monkeypatch.setattr(l2_svm.LinearClassifier, "scores", spied_scores)


def numbered(count: int, seed: int) -> Split:
    examples = split(count, seed)
    examples.features[:, 0] = np.arange(count)
    return examples


def test_c_is_chosen_on_held_out_examples_that_no_classifier_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    train, spy = numbered(600, 0), Spy(monkeypatch)
    svm_protocol.evaluate(train, split(300, 1), 3, Protocol((1e-3, 1e-1), 20, 3, 2, 0), "")
    held_out = spy.scored[0]
    assert len(set(held_out)) == 120 and spy.scored[:6] == [held_out] * 6
    assert all(len(set(numbers)) == 60 and not set(numbers) & set(held_out) for numbers in spy.fitted)
    assert len({frozenset(numbers) for numbers in spy.fitted}) == 3 + 2  # draws to choose and to test all differ


def test_with_all_labels_a_tenth_chooses_c_and_is_then_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test, spy = numbered(600, 0), numbered(300, 1), Spy(monkeypatch)
    svm_protocol.evaluate(train, test, 3, Protocol((1e-3, 1e-2, 1e-1), 0, 3, 2, 7), "")
    held_out = spy.scored[0]
    assert len(set(held_out)) == 60 and spy.scored == [held_out] * 3 + [list(range(300))]
    others = sorted(set(range(600)) - set(held_out))
    assert spy.fitted == [others] * 3 + [list(range(600))]
    assert held_out != svm_protocol.hold_out(600, Protocol((1.0,), 0, 3, 2, 8))[0].tolist()


def test_a_single_c_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    train, spy = numbered(600, 0), Spy(monkeypatch)
    outcome = svm_protocol.evaluate(train, numbered(300, 1), 3, Protocol((1e-2,), 0, 3, 2, 0), "")
    assert (outcome["c"], outcome["edge"]) == (1e-2, False)
    assert len(spy.fitted) == len(spy.scored) == 1


def test_mirrored_copies_are_trained_on_and_their_scores_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the features nor their mirror images tell the two classes apart; the sum of both does."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.array([0, 1], np.int32), 200)
    sign, noise = 2.0 * labels - 1, 6 * rng.normal(0, 1, 200).repeat(2)
    one, other = (np.stack([sign + noise, np.ones(400)], 1), np.stack([sign - noise, np.ones(400)], 1))
    both = Split(one.astype(np.float32), labels, other.astype(np.float32))
    train, test = both.take(np.arange(300)), both.take(np.arange(300, 400))
    protocol = Protocol((1e-2,), 0, 1, 1, 0)
    spy = Spy(monkeypatch)
    assert svm_protocol.evaluate(train, test, 2, protocol, "")["accuracy"] == 1.0
    assert [len(rows) for rows in spy.fitted] == [600]
    alone = svm_protocol.evaluate(Split(*train[:2]), Split(*test[:2]), 2, protocol, "")
    assert alone["accuracy"] < 0.75 and len(spy.fitted[-1]) == 300
    some = both.columns(1, 2)
    assert some.mirrored is not None and some.features.shape == some.mirrored.shape == (400, 1)


def test_the_spread_is_that_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies 0.5, 0.6 and 1.0: mean 0.7, and the root of (0.04 + 0.01 + 0.09) / 2."""
    shares = iter([0.5, 0.6, 1.0])
    monkeypatch.setattr(svm_protocol, "_accuracy", lambda *_: next(shares))
    outcome = svm_protocol.evaluate(split(600, 0), split(300, 1), 3, Protocol((1e-2,), 20, 3, 3, 0), "")
    assert outcome["accuracy"] == pytest.approx(0.7) and outcome["std"] == pytest.approx(np.sqrt(0.07))
    monkeypatch.setattr(svm_protocol, "_accuracy", lambda *_: 0.5)
    single = svm_protocol.evaluate(split(600, 0), split(300, 1), 3, Protocol((1e-2,), 20, 3, 1, 0), "")
    assert (single["accuracy"], single["std"]) == (0.5, None)


@pytest.mark.parametrize(
    ("accuracies", "edge", "warning"),
    [
        ((0.9, 0.8, 0.7), True, "the best C, 0.001, is at the end of --c: a smaller one may be better"),
        ((0.7, 0.8, 0.9), True, "the best C, 0.1, is at the end of --c: a larger one may be better"),
        ((0.7, 0.9, 0.8), False, ""),
    ],
)
def test_the_end_of_the_grid_is_said(
    accuracies: tuple[float, ...],
    edge: bool,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shares = iter([*accuracies, 0.5])
    monkeypatch.setattr(svm_protocol, "_accuracy", lambda *_: next(shares))
    outcome = svm_protocol.evaluate(split(60, 0), split(30, 1), 3, Protocol((1e-3, 1e-2, 1e-1), 0, 1, 1, 0), "x")
    assert outcome["edge"] is edge and outcome["held_out"] == list(accuracies)
    assert (warning in caplog.text) if warning else not caplog.records


def test_a_fit_that_has_not_converged_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(l2_svm, "_MOST_NEWTON_STEPS", 0)
    outcome = svm_protocol.evaluate(split(60, 0), split(30, 1), 3, Protocol((1e-2,), 0, 1, 1, 0), "x")
    assert outcome["gradient_left"] == 1.0
    assert "x: a fit has not converged: 1e+00 of its first gradient is left" in caplog.text


def test_the_best_c_wins() -> None:
    """With next to no weight on the loss the classifier learns nothing of a problem that is easy with more."""
    outcome = svm_protocol.evaluate(split(600, 0), split(300, 1), 3, Protocol((1e-9, 1e-1), 20, 3, 3, 0), "")
    assert outcome["c"] == 1e-1 and outcome["held_out"][1] > outcome["held_out"][0]


def test_too_few_examples_to_draw() -> None:
    with pytest.raises(ValueError, match="3 examples of each class, but one has 2"):
        svm_protocol.draw_per_class(np.array([0, 0, 0, 1, 1]), 3, np.random.default_rng(0))
