"""The same run on 1, 2, 4 and 8 devices, however it is mapped and fed: processes with forced CPU devices (long)."""

from pathlib import Path

import pytest

from tests import processes, tiny
from tests.test_multi_process import largest_difference

# Ragged: 20 images and batches of 8, so epochs end within batches; calls of 3 steps, so 7 steps leave one over.
MODES = {
    "shard_map, streamed": ["--config.mapper=shard_map", "--config.data.placement=host"],
    "shard_map, resident": ["--config.mapper=shard_map", "--config.data.placement=device"],
    "shard_map, resident, 3 steps a call": [
        "--config.mapper=shard_map",
        "--config.data.placement=device",
        "--config.steps_per_call=3",
        "--config.log_every=3",
    ],
    "pmap, streamed": ["--config.mapper=pmap", "--config.data.placement=host"],
    "pmap, resident": ["--config.mapper=pmap", "--config.data.placement=device"],
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    source = tiny.image_folder(folder / "images", count=20)
    return tiny.write_config(folder, {"data.source": source, "data.cache_dir": str(folder / "cache"), "num_steps": 7})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def trained(config: Path, runs: Path, mode: str, devices: int, *flags: str) -> Path:
    """The folder of a run, made when first asked for."""
    workdir = runs / f"{mode} {devices} {' '.join(flags)}".replace("/", "_")
    if not workdir.exists():
        processes.finish(processes.start(config, workdir, *MODES[mode], *flags, devices=devices))
    return workdir


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", MODES)
def test_statistics_over_all_devices_give_the_same_run(config: Path, runs: Path, mode: str, devices: int) -> None:
    """Largest relative difference over seven steps of all metrics, against one device, streamed, by shard_map."""
    reference = trained(config, runs, "shard_map, streamed", 1)
    found = largest_difference(trained(config, runs, mode, devices), reference)
    print(f"{mode}, {devices} devices: {found:.1e}")
    assert found < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_local_statistics_give_the_same_run_however_it_is_mapped(config: Path, runs: Path, devices: int) -> None:
    """They depend on the number of devices, by definition, but on nothing else."""
    local = "--config.model.cross_replica_norm=False"
    reference = trained(config, runs, "shard_map, streamed", devices, local)
    assert largest_difference(reference, trained(config, runs, "shard_map, streamed", 1)) > 1e-3
    for mode in ("shard_map, resident", "pmap, streamed", "pmap, resident"):
        found = largest_difference(trained(config, runs, mode, devices, local), reference)
        print(f"local statistics, {mode}, {devices} devices: {found:.1e}")
        assert found < 1e-4
