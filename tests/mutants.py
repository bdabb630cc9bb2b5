"""Faults that were put into the protocols of the experiments, one at a time, and the test that tells each.

docs/paper.md has the table. test_mutants.py runs every test on a copy of the package with its fault.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """Attributes:

    what: the fault, in words.
    file: under dcgan_jax.
    old: what stands there once.
    new: what is put there instead.
    test: that fails, as pytest names it, under tests.
    """

    what: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "all labels: C is chosen on images that were fitted",
        "evaluation/svm_protocol.py",
        "        return rest\n",
        "        return np.arange(len(labels))\n",
        "test_svm_protocol.py::test_with_all_labels_a_tenth_chooses_c_and_is_then_trained_on",
    ),
    Mutant(
        "all labels: the last fit leaves the held-out tenth out",
        "evaluation/svm_protocol.py",
        "if few else everything",
        "if few else rest",
        "test_svm_protocol.py::test_with_all_labels_a_tenth_chooses_c_and_is_then_trained_on",
    ),
    Mutant(
        "few labels: tested with the draws that chose C",
        "evaluation/svm_protocol.py",
        "protocol, protocol.draws + i)",
        "protocol, i)",
        "test_svm_protocol.py::test_c_is_chosen_on_held_out_examples_that_no_classifier_saw",
    ),
    Mutant(
        "the spread over draws divides by n",
        "evaluation/svm_protocol.py",
        "np.std(scores, ddof=1)",
        "np.std(scores)",
        "test_svm_protocol.py::test_the_spread_is_that_of_a_sample",
    ),
    Mutant(
        "scores of mirror images are not added",
        "evaluation/svm_protocol.py",
        "        scores = scores + classifier.scores(split.mirrored)\n",
        "        pass\n",
        "test_svm_protocol.py::test_mirrored_copies_are_trained_on_and_their_scores_added",
    ),
    Mutant(
        "test images may be the training images",
        "datasets/opening.py",
        "    if share <= _SHARED:",
        "    if True:",
        "test_nearest.py::test_bad_input",
    ),
    Mutant(
        "some of the test images may be training images",
        "datasets/opening.py",
        "_SHARED = 0.01",
        "_SHARED = 0.1",
        "test_held_out.py::test_test_images_that_are_training_images_are_found",
    ),
    Mutant(
        "a copy elsewhere counts as other images",
        "datasets/image_dataset.py",
        "return min(1.0, found / len(ours) * len(other.images) / len(theirs))",
        "return 0.0",
        "test_held_out.py::test_test_images_that_are_training_images_are_found",
    ),
    Mutant(
        "some of the held-out images may be training images",
        "datasets/image_dataset.py",
        "if from_one_split or self.meta",
        "if self.meta",
        "test_calibration.py::test_the_images_of_training",
    ),
    Mutant(
        "plausible: the limit is that of training images",
        "metrics/attribute_probe.py",
        "np.quantile(_distance(found[_FEATURES], mean, precision), _PLAUSIBLE)",
        "np.quantile(_distance(seen, mean, precision), _PLAUSIBLE)",
        "test_attribute_probe.py::test_the_limit_is_of_images_not_trained_on",
    ),
    Mutant(
        "arithmetic: implausible results count as success",
        "analysis/vector_arithmetic.py",
        "both = shown & plausible",
        "both = shown",
        "test_vector_arithmetic.py::test_success_by_hand",
    ),
    Mutant(
        "arithmetic: the second judge is the first",
        "analysis/vector_arithmetic.py",
        'results | {"random": images}) for judge in judges)',
        'results | {"random": images}) for judge in judges[:1] * 2)',
        "test_vector_arithmetic.py::test_an_experiment_with_two_judges",
    ),
    Mutant(
        "arithmetic: one exemplar is not scaled",
        "analysis/vector_arithmetic.py",
        '"one_scaled": scaled(one, length)',
        '"one_scaled": one',
        "test_vector_arithmetic.py::test_means_by_hand",
    ),
    Mutant(
        "turn: random directions are not as long as the vector",
        "analysis/turn_vector.py",
        "noise * np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)",
        "noise",
        "test_turn_vector.py::test_random_directions_are_as_long_as_the_vectors",
    ),
    Mutant(
        "turn: the standard error is over samples",
        "analysis/turn_vector.py",
        "np.sqrt(shape[0])",
        "np.sqrt(shape[0] * shape[1])",
        "test_turn_vector.py::test_measures_by_hand",
    ),
    Mutant(
        "windows: the maps dropped at random are the chosen ones",
        "analysis/window_dropout.py",
        "return rng.permutation(dropped)",
        "return dropped",
        "test_window_dropout.py::test_as_many_other_maps_at_random",
    ),
    Mutant(
        "windows: pixels that are still marked count as gone",
        "analysis/window_dropout.py",
        "area = 1.0 - float(left[self.windows].mean())",
        "area = float(left[self.windows].mean())",
        "test_window_dropout.py::test_the_effect_by_hand",
    ),
    Mutant(
        "windows: the regression is tested on what it was fitted to",
        "analysis/window_dropout.py",
        "regress(*places(np.setdiff1d(marked, test)))",
        "regress(*places(marked))",
        "test_window_dropout.py::test_accuracy_is_that_of_images_not_fitted_to",
    ),
    Mutant(
        "walks: steps are not per leg",
        "analysis/latent_walk.py",
        "np.linalg.norm(np.diff(walk, axis=-2), axis=-1) * _FINE",
        "np.linalg.norm(np.diff(walk, axis=-2), axis=-1)",
        "test_latent_walk.py::test_path_length_by_hand",
    ),
    Mutant(
        "guided backpropagation without its second gate",
        "analysis/guided_backprop.py",
        "jnp.where(active & (gradient > 0), gradient, 0)",
        "jnp.where(active, gradient, 0)",
        "test_guided_backprop.py::test_gradient_passes_only_where_activation_and_gradient_are_positive",
    ),
    Mutant(
        "copies: the limit is that of training images to held-out ones",
        "evaluation/real_images.py",
        "memorization.nearest_distances(features, training)",
        "memorization.nearest_distances(training, features)",
        "test_variations.py::test_held_out_images_are_what_samples_are_compared_with",
    ),
    Mutant(
        "copies: mirror images of training images are others",
        "metrics/memorization.py",
        "(images, images[:, :, ::-1]) if mirrored",
        "(images,) if mirrored",
        "test_memorization.py::test_mirror_images_of_mirrored_training_images_are_copies",
    ),
    Mutant(
        "studies: the gap of D is of the first images",
        "evaluation/real_images.py",
        "parts = (_drawn(images, _JUDGED, seed=1) for",
        "parts = (images[:_JUDGED] for",
        "test_variations.py::test_the_gap_is_of_images_of_all_classes",
    ),
    Mutant(
        "studies: runs that did not diverge stand for all",
        "evaluation/variations.py",
        "[] if any(run.diverged for run in of_name) else",
        "[] if False else",
        "test_variations.py::test_a_variation_of_which_a_run_diverged_is_not_compared",
    ),
    Mutant(
        "near-duplicates: copies are compared with the first images",
        "datasets/dedup.py",
        "np.array([numbers[large.keys[i]] for i in found])",
        "np.arange(len(found))",
        "test_dedup.py::test_copies_are_compared_with_the_images_that_they_are_made_of",
    ),
    Mutant(
        "studies: p-values are not corrected",
        "evaluation/significance.py",
        "np.asarray(p_values)[order] * factors",
        "np.asarray(p_values)[order]",
        "test_significance.py::test_holm_by_hand",
    ),
    Mutant(
        "studies: equal variances are assumed",
        "evaluation/significance.py",
        "equal_var=False",
        "equal_var=True",
        "test_significance.py::test_welch_by_hand",
    ),
    Mutant(
        "nearest neighbours: labels of samples are those of the next part",
        "evaluation/nearest_neighbor.py",
        "            neighbors.add(samples, label)\n",
        "            neighbors.add(samples, (label + 1) % classes)\n",
        "test_nearest.py::test_of_a_run",
    ),
    Mutant(
        "kernel distance: an image is compared with itself",
        "metrics/kid.py",
        "jnp.where(jnp.eye(len(x), dtype=bool), 0.0, _kernel_less_1(x, x)).sum(1)",
        "_kernel_less_1(x, x).sum(1)",
        "test_kid.py::test_by_hand",
    ),
)
