"""The launchers: what they would run, what they refuse, and what they do with stand-ins for the clusters' programs."""

import copy
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("launch/*.sh"))
# Flags that a shell would take apart, and JSON would have to escape.
AWKWARD = [
    "--config.data.source=folder:gs://bucket/my photos",
    "--config.model.generator.stages=((512,2),(512,2))",
    """--x=it's "$HOME" \\ done""",
]
TRAIN = ["--config=configs/lsun.py", "--workdir=gs://bucket/runs/lsun"]
IMAGE = {"IMAGE": "registry/image:tag"}
# Stands for any program: appends its words to $CALLS, each ended by a zero byte, and what it is given to $CALLS.stdin.
RECORDER = r"""#!/bin/bash
printf '%s\0' "${0##*/}" "$@" >>"$CALLS"
printf '\n' >>"$CALLS"
if [[ ${!#} == - ]]; then cat >"$CALLS.stdin"; fi
"""
PROGRAMS = ("gcloud", "gcsfuse", "kubectl", "mountpoint", "rsync", "scancel", "scontrol", "srun", "ssh", "sudo", "tail")


def environment(**changes: str) -> dict[str, str]:
    """That of the tests, without what the launchers read."""
    ours = ("BOX", "EXTRAS", "IMAGE", "PYTHON", "ZONE")
    return {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("SLURM_")} | changes


def launch(
    script: str, *arguments: str, variables: dict[str, str] | None = None, root: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=root,
        env=environment(**variables or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, str]:
    """Variables with which PROGRAMS are stand-ins that only record how they were called, see `calls`."""
    for name in PROGRAMS:
        write_program(tmp_path / "programs" / name, RECORDER)
    write_program(tmp_path / "programs" / "mountpoint", RECORDER + "exit 1\n")
    return {"PATH": f"{tmp_path}/programs:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def calls(recorded: dict[str, str]) -> list[list[str]]:
    path = Path(recorded["CALLS"])
    return [line.split("\0") for line in path.read_text().split("\0\n")[:-1]] if path.exists() else []


# --- What would be run --------------------------------------------------------------------------------------------

TPU = ["gcloud", "compute", "tpus"]
# Script, its arguments, variables, and the words that one of the commands must have, in order.
COMMANDS: list[tuple[str, list[str], dict[str, str], list[str]]] = [
    (
        "tpu_vm.sh",
        ["create", "tpu1", "v5litepod-16", "--spot"],
        {"ZONE": "us-west4-a"},
        [
            *(*TPU, "queued-resources", "create", "tpu1", "--node-id=tpu1", "--accelerator-type=v5litepod-16"),
            *("--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--zone=us-west4-a"),
        ],
    ),
    (
        "tpu_vm.sh",
        ["create", "tpu1", "v6e-8"],
        {},
        [*TPU, "queued-resources", "create", "--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e"],
    ),
    ("tpu_vm.sh", ["status", "tpu1"], {}, [*TPU, "queued-resources", "describe", "tpu1"]),
    ("tpu_vm.sh", ["install", "tpu1"], {"ZONE": "z"}, [*TPU, "tpu-vm", "scp", "tpu1:", "--worker=all", "--zone=z"]),
    ("tpu_vm.sh", ["run", "tpu1", *TRAIN, *AWKWARD], {}, [*TPU, "tpu-vm", "ssh", "tpu1", "--worker=all"]),
    ("tpu_vm.sh", ["run", "tpu1", "--workdir=/nfs/runs/a"], {}, [*TPU, "tpu-vm", "ssh", "tpu1", "--worker=all"]),
    ("tpu_vm.sh", ["logs", "tpu1"], {}, [*TPU, "tpu-vm", "ssh", "tpu1", "--worker=0"]),
    ("tpu_vm.sh", ["logs", "tpu1", "3"], {}, [*TPU, "tpu-vm", "ssh", "tpu1", "--worker=3"]),
    ("tpu_vm.sh", ["stop", "tpu1"], {}, [*TPU, "tpu-vm", "ssh", "tpu1", "--worker=all"]),
    ("tpu_vm.sh", ["delete", "tpu1"], {}, [*TPU, "queued-resources", "delete", "tpu1", "--force"]),
    ("tpu_host.sh", ["mount", "bucket"], {}, ["gcsfuse", "bucket", "/mnt/gcs/bucket"]),
    ("gke.sh", ["logs", "run1"], {}, ["kubectl", "logs", "--follow", "--container=main"]),
    ("gke.sh", ["delete", "run1"], {}, ["kubectl", "delete", "jobset", "run1"]),
    ("gpu_box.sh", ["run", *AWKWARD], {"BOX": "me@box"}, ["rsync", "--archive", "dcgan_jax", "me@box:dcgan_jax/"]),
    ("gpu_box.sh", ["run"], {"BOX": "me@box", "PYTHON": "/opt/my python"}, ["ssh", "me@box"]),
    ("gpu_box.sh", ["logs"], {"BOX": "me@box"}, ["ssh", "-t", "me@box"]),
    ("gpu_box.sh", ["stop"], {"BOX": "me@box"}, ["ssh", "me@box"]),
    ("gpu_box.sh", ["fetch"], {"BOX": "me@box"}, ["rsync", "me@box:dcgan_jax/runs/", "runs/"]),
    ("background.sh", ["logs"], {}, ["tail", "-F", "runs/background.log"]),
]


@pytest.mark.parametrize(("script", "arguments", "variables", "words"), COMMANDS)
def test_a_dry_run_prints_exactly_what_is_run(
    script: str, arguments: list[str], variables: dict[str, str], words: list[str], recorded: dict[str, str]
) -> None:
    variables = variables | recorded | {"TMPDIR": str(Path(recorded["CALLS"]).parent)}
    dry = launch(script, "--dry-run", *arguments, variables=variables)
    assert dry.returncode == 0, dry.stderr
    assert [call for call in calls(recorded) if call[0] != "mountpoint"] == []

    real = launch(script, *arguments, variables=variables)
    assert real.returncode == 0, real.stderr
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    assert [call for call in calls(recorded) if call[0] != "mountpoint"] == [
        command for command in printed if command[0] in PROGRAMS
    ]
    assert any(_in_order(words, command) for command in printed), dry.stdout


def _in_order(words: list[str], command: list[str]) -> bool:
    rest = iter(command)
    return all(word in rest for word in words)


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "expected"),
    [
        (
            "tpu_vm.sh",
            ["run", "tpu1", *TRAIN, *AWKWARD],
            {},
            [
                *("cd", "dcgan_jax", "&&", "bash", "launch/tpu_host.sh", "mount", "bucket", "&&"),
                *("env", "EXTRAS=tpu", "bash", "launch/background.sh", "start", "--config=configs/lsun.py"),
                *("--workdir=/mnt/gcs/bucket/runs/lsun", AWKWARD[0].replace("gs://", "/mnt/gcs/"), *AWKWARD[1:]),
            ],
        ),
        ("tpu_vm.sh", ["stop", "tpu1"], {}, ["cd", "dcgan_jax", "&&", "bash", "launch/background.sh", "stop"]),
        (
            "gpu_box.sh",
            ["run", *AWKWARD],
            {"BOX": "me@box", "PYTHON": "/opt/my python"},
            [
                *("cd", "dcgan_jax", "&&", "env", "PYTHON=/opt/my python", "bash", "launch/background.sh", "start"),
                *AWKWARD,
            ],
        ),
    ],
)
def test_a_remote_shell_gets_the_flags_as_they_were_given(
    script: str, arguments: list[str], variables: dict[str, str], expected: list[str]
) -> None:
    result = launch(script, "--dry-run", *arguments, variables=variables)
    words = shlex.split(result.stdout.splitlines()[-1])
    remote = next(word for word in words if "cd dcgan_jax" in word).removeprefix("--command=")
    assert shlex.split(remote) == expected


def test_dry_runs_of_what_is_not_on_path() -> None:
    started = launch("background.sh", "--dry-run", "start", *AWKWARD).stdout
    assert started.startswith("setsid bash launch/background.sh supervise ")
    assert shlex.split(started)[4 : 4 + len(AWKWARD)] == AWKWARD
    assert launch("gpu_box.sh", "--dry-run", "run", "--a=b c").stdout == "bash launch/background.sh start '--a=b c'\n"
    check = shlex.split(launch("gpu_check.sh", "--dry-run", "--quick", variables={"PYTHON": "/opt/my python"}).stdout)
    assert check[0] == "env" and check[1].startswith(f"PYTHONPATH={ROOT}")
    assert check[2:] == ["/opt/my python", "-m", "dcgan_jax.benchmark.gpu_check", "--out=runs/gpu_check", "--quick"]
    assert launch("background.sh", "--dry-run", "stop").stdout == "kill -TERM $(cat runs/background.pid)\n"
    assert "set_up_env tpu" in launch("tpu_host.sh", "--dry-run", "setup").stdout
    step, *_ = launch("slurm.sh", "--dry-run", *TRAIN, *AWKWARD).stdout.splitlines()
    start = ["srun", "--kill-on-bad-exit=0", "--wait=300", ".venv/bin/python", "-m", "dcgan_jax.main"]
    assert shlex.split(step) == [*start, *TRAIN, *AWKWARD]


@pytest.mark.parametrize("workdir", ["gs://bucket/runs/lsun/", "/nfs/runs/lsun", "runs/lsun"])
def test_fetch_from_a_bucket_or_a_host(workdir: str) -> None:
    commands = launch("tpu_vm.sh", "--dry-run", "fetch", "tpu1", workdir).stdout.splitlines()
    assert commands[0] == "mkdir -p runs/lsun"
    if workdir.startswith("gs:"):
        assert commands[1] == "gcloud storage rsync --recursive gs://bucket/runs/lsun runs/lsun"
    else:
        source = workdir if workdir.startswith("/") else f"dcgan_jax/{workdir}"
        assert commands[1] == f"gcloud compute tpus tpu-vm scp --recurse --worker=0 tpu1:{source} runs/"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("tpu_vm.sh", [], "tpu_vm.sh needs a command: create, status, install, run, logs, stop, fetch or delete"),
        ("tpu_vm.sh", ["destroy", "tpu1"], "not 'destroy'"),
        ("tpu_vm.sh", ["run"], "tpu_vm.sh run needs the name of the TPU VMs"),
        ("tpu_vm.sh", ["run", "--config=configs/lsun.py"], "tpu_vm.sh run needs the name of the TPU VMs"),
        ("tpu_vm.sh", ["create", "tpu1", "v4-8"], "'v4-8' is not a type of TPU VM: v5litepod-N or v6e-N"),
        ("tpu_vm.sh", ["create", "tpu1", "v6e-8", "--cheap"], "create takes NAME TYPE [--spot]"),
        ("tpu_vm.sh", ["run", "tpu1", "--config=configs/lsun.py"], "--workdir=gs://BUCKET/FOLDER is missing"),
        ("tpu_vm.sh", ["run", "tpu1", "--workdir=gs://bucket"], "names no folder in the bucket"),
        ("tpu_vm.sh", ["run", "tpu1", "--workdir=gs://;id/runs"], "';id' is not the name of a bucket"),
        ("tpu_vm.sh", ["run", "tpu1", *TRAIN, "--a=gs://other/b"], "--a=gs://other/b is in another bucket"),
        ("tpu_vm.sh", ["logs", "tpu1", "all"], "logs takes NAME [HOST]"),
        ("tpu_vm.sh", ["fetch", "tpu1"], "fetch takes NAME WORKDIR"),
        ("tpu_vm.sh", ["stop", "tpu1", "now"], "stop takes NAME only, not 'now'"),
        ("tpu_host.sh", ["mount"], "takes 'setup' or 'mount BUCKET', not 'mount'"),
        ("gke.sh", ["start", "run1"], "gke.sh needs a command: apply, logs or delete, not 'start'"),
        ("gke.sh", ["apply", "Run_1"], "needs a name of small letters, digits and hyphens, not 'Run_1'"),
        ("gke.sh", ["apply", "run1", "v6e-9", *TRAIN], "'v6e-9': there are slices of 1, 4, 8, 16"),
        ("gke.sh", ["apply", "run1", "h100", *TRAIN], "'h100' is not a type"),
        ("gke.sh", ["apply", "run1", "v6e-8", "--workdir=/runs/a"], "would be lost with the pods"),
        ("gke.sh", ["logs", "run1", "2"], "logs takes NAME only"),
        ("gpu_box.sh", ["start"], "gpu_box.sh needs a command: run, logs, stop or fetch, not 'start'"),
        ("gpu_box.sh", ["stop", "now"], "gpu_box.sh stop takes no arguments"),
        ("gpu_box.sh", ["fetch"], "fetch needs BOX=user@machine"),
        ("background.sh", [], "background.sh needs a command: start, logs or stop, not ''"),
        ("background.sh", ["stop", "now"], "background.sh stop takes no arguments"),
        ("slurm.sh", [], "slurm.sh needs --config=FILE and --workdir=FOLDER"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_mistakes_are_told_in_one_line(script: str, arguments: list[str], message: str, dry_run: list[str]) -> None:
    result = launch(script, *dry_run, *arguments, variables=IMAGE)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("gke.sh", ["apply", "run1", "v6e-8", *TRAIN], "gke.sh apply needs IMAGE=REGISTRY/NAME:TAG"),
        ("slurm.sh", TRAIN, "slurm.sh runs in a job: sbatch"),
    ],
)
def test_an_image_and_a_job_are_needed(script: str, arguments: list[str], message: str) -> None:
    result = launch(script, *arguments)
    assert result.returncode == 2
    assert message in result.stderr


# --- GKE -----------------------------------------------------------------------------------------------------------


def apply(kind: str, *flags: str, recorded: dict[str, str]) -> dict[str, Any]:
    """What kubectl is given, by kind; the same must be printed by a dry run."""
    arguments = ("apply", "run1", kind, *TRAIN, *flags)
    dry = launch("gke.sh", "--dry-run", *arguments, variables=IMAGE)
    real = launch("gke.sh", *arguments, variables=IMAGE | recorded)
    assert real.returncode == 0, real.stderr
    assert calls(recorded) == [["kubectl", "apply", "-f", "-"]]
    applied = Path(recorded["CALLS"] + ".stdin").read_text()
    assert dry.stdout == applied + "# kubectl apply -f -\n"
    assert "${" not in applied.replace("${VARIABLE}", "")
    return {document["kind"]: document for document in yaml.safe_load_all(applied)}


@pytest.mark.parametrize(
    ("kind", "hosts", "nodes", "limits"),
    [
        (
            "v5litepod-16",
            4,
            {
                "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
                "cloud.google.com/gke-tpu-topology": "4x4",
            },
            {"google.com/tpu": 4},
        ),
        (
            "v6e-8",
            1,
            {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice", "cloud.google.com/gke-tpu-topology": "2x4"},
            {"google.com/tpu": 8},
        ),
        ("nvidia-l4:1", 1, {"cloud.google.com/gke-accelerator": "nvidia-l4"}, {"nvidia.com/gpu": 1}),
        (
            "nvidia-h100-80gb:8x2",
            2,
            {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
            {"nvidia.com/gpu": 8},
        ),
    ],
)
def test_jobset(kind: str, hosts: int, nodes: dict[str, str], limits: dict[str, int], recorded: dict[str, str]) -> None:
    documents = apply(kind, *AWKWARD, recorded=recorded)
    assert list(documents) == ["ServiceAccount", "Role", "RoleBinding", "JobSet"]
    jobset = documents["JobSet"]
    assert jobset["metadata"]["name"] == "run1"
    exclusive = jobset["metadata"]["annotations"].get("alpha.jobset.sigs.k8s.io/exclusive-topology")
    assert exclusive == (None if kind.startswith("nvidia") else "cloud.google.com/gke-nodepool")

    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert (replicated["replicas"], job["parallelism"], job["completions"]) == (1, hosts, hosts)
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == nodes
    (container,) = pod["containers"]
    assert container["image"] == "registry/image:tag"
    assert container["resources"]["limits"] == limits
    # The flags arrive whole; the bucket is mounted where they say.
    folder = AWKWARD[0].replace("gs://", "/mnt/gcs/")
    assert container["args"] == [TRAIN[0], "--workdir=/mnt/gcs/bucket/runs/lsun", folder, *AWKWARD[1:]]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/mnt/gcs/bucket")
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    attributes = volume["csi"]["volumeAttributes"]
    assert attributes["bucketName"] == "bucket"
    assert " " not in attributes["mountOptions"]
    assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}


def test_jobset_restarts_what_was_stopped_and_little_else(recorded: dict[str, str]) -> None:
    jobset = apply("v6e-8", recorded=recorded)["JobSet"]["spec"]
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    # Of a job's failures, those that its podFailurePolicy names restart all hosts without limit, others three times.
    assert jobset["failurePolicy"]["maxRestarts"] == 3
    (rule,) = jobset["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    by_status, by_condition = job["podFailurePolicy"]["rules"]
    assert by_status["action"] == by_condition["action"] == "FailJob"
    assert by_status["onExitCodes"] == {"containerName": "main", "operator": "In", "values": [75, 76, 143]}
    assert by_condition["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert job["template"]["spec"]["containers"][0]["name"] == "main"


def test_jobset_service_account_may_find_its_peers(recorded: dict[str, str]) -> None:
    documents = apply("nvidia-l4:1x2", recorded=recorded)
    name = documents["ServiceAccount"]["metadata"]["name"]
    pod = documents["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == name
    assert documents["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": name}]
    assert documents["RoleBinding"]["roleRef"]["name"] == documents["Role"]["metadata"]["name"]
    # What jax._src.clusters.k8s_cluster calls.
    allowed = {
        (resource, verb)
        for rule in documents["Role"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {("pods", "list"), ("services", "list"), ("jobs", "get")} <= allowed


def test_the_image_has_what_the_program_needs() -> None:
    instructions = (ROOT / "launch/Dockerfile").read_text()
    for line in instructions.splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), line
    assert 'ENTRYPOINT ["python", "-m", "dcgan_jax.main"]' in instructions


# --- Slurm ---------------------------------------------------------------------------------------------------------


class Cluster:
    """A repository with a stand-in for .venv, and a Slurm of shell scripts, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.root, self._calls = folder / "repository", folder / "calls"
        self.tasks = folder / "tasks.pid"
        (self.root / "launch").mkdir(parents=True)
        shutil.copy(ROOT / "launch/common.sh", self.root / "launch")
        write_program(self.root / ".venv/bin/python", "#!/bin/sh\nexit 1\n")  # srun would call it
        # As Slurm does, which runs a copy of the script.
        self._script = folder / "spool/slurm_script"
        self._script.parent.mkdir()
        shutil.copy(ROOT / "launch/slurm.sh", self._script)
        for name in ("scancel", "scontrol", "srun"):
            write_program(folder / "programs" / name, RECORDER + f'source "{folder}/{name}.sh"\n')
        (folder / "scontrol.sh").write_text('if [[ $1 == show ]]; then echo "JobState=$STATE Reason=None"; fi\n')
        # Like the real one: it signals the tasks, not the batch script.
        (folder / "scancel.sh").write_text(f'kill -TERM "$(cat {self.tasks})"\n')
        # A task that saves when it is told to, and then ends with 75.
        (folder / "srun.sh").write_text(
            'if [[ $STATUS != wait ]]; then exit "$STATUS"; fi\n'
            "trap 'sleep 0.3; exit 75' TERM\n"
            f"echo $$ >{self.tasks}.new && mv {self.tasks}.new {self.tasks}\n"
            "for _ in {1..600}; do sleep 0.05; done\n"
        )
        self._environment = environment(
            PATH=f"{folder}/programs:{os.environ['PATH']}",
            CALLS=str(self._calls),
            SLURM_SUBMIT_DIR=str(self.root),
            SLURM_JOB_ID="7",
        )

    def start(self, status: str, state: str = "RUNNING", restarts: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self._script), *TRAIN, *AWKWARD],
            cwd="/",
            env=self._environment | {"STATUS": status, "STATE": state, "SLURM_RESTART_COUNT": restarts},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self, program: str) -> list[list[str]]:
        return [call for call in calls({"CALLS": str(self._calls)}) if call[0] == program]

    def requeued(self) -> bool:
        return ["scontrol", "requeue", "7"] in self.calls("scontrol")


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


@pytest.mark.parametrize(
    ("status", "state", "restarts", "requeued"),
    [
        (75, "RUNNING", "", True),
        (75, "RUNNING", "99", True),
        (143, "RUNNING", "", True),
        (76, "RUNNING", "", True),
        (134, "RUNNING", "9", True),
        (134, "RUNNING", "10", False),
        (0, "RUNNING", "", False),
        (1, "RUNNING", "", False),
        (2, "RUNNING", "", False),
        (137, "RUNNING", "", False),
        (75, "COMPLETING", "", False),  # scancel
    ],
)
def test_slurm_requeues_what_was_told_to_stop_or_lost_a_process(
    status: int, state: str, restarts: str, requeued: bool, cluster: Cluster
) -> None:
    job = cluster.start(str(status), state, restarts)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == status, output
    start = ["srun", "--kill-on-bad-exit=0", "--wait=300", ".venv/bin/python", "-m", "dcgan_jax.main"]
    assert cluster.calls("srun") == [[*start, *TRAIN, *AWKWARD]]
    assert cluster.requeued() == requeued
    assert ("goes back to the queue" in output) == requeued


@pytest.mark.parametrize(("signum", "requeued"), [(signal.SIGTERM, True), (signal.SIGUSR1, False)])
def test_slurm_tells_the_tasks_and_waits_until_they_have_saved(
    signum: signal.Signals, requeued: bool, cluster: Cluster
) -> None:
    job = cluster.start("wait")
    _wait_for(cluster.tasks.exists)
    job.send_signal(signum)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 75, output
    assert cluster.calls("scancel") == [["scancel", "--signal=TERM", "7"]]
    assert cluster.requeued() == requeued


def test_slurm_directives() -> None:
    lines = (ROOT / "launch/slurm.sh").read_text().splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=B:TERM@120", "--open-mode=append"} <= set(directives)
    # sbatch reads them up to the first command.
    assert lines[0].startswith("#!") and all(line.startswith("#SBATCH") for line in lines[1 : 1 + len(directives)])


def test_slurm_says_what_is_missing(cluster: Cluster) -> None:
    shutil.rmtree(cluster.root / ".venv")
    job = cluster.start("0")
    assert "error: there is no .venv in" in job.communicate(timeout=60)[0]
    assert job.returncode == 2
    shutil.rmtree(cluster.root / "launch")
    job = cluster.start("0")
    assert "is not the repository's root" in job.communicate(timeout=60)[0]
    assert job.returncode == 2


# --- In the background of a machine --------------------------------------------------------------------------------


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Path]:
    """A repository whose launch/local.sh, a stand-in, ends with the statuses in the file `statuses`, one after another;
    with 'wait' it waits until it is told to stop, and ends with 75."""
    if not (shutil.which("setsid") and shutil.which("flock")):
        pytest.skip("launch/background.sh is for Linux")
    for name in ("common.sh", "background.sh", "gpu_box.sh"):
        (tmp_path / "launch").mkdir(exist_ok=True)
        shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
    (tmp_path / "launch/local.sh").write_text(
        'echo "flags: $*"\n'
        "status=$(head -n 1 statuses)\n"
        "sed -i 1d statuses\n"
        'if [[ $status != wait ]]; then exit "$status"; fi\n'
        "trap 'sleep 0.3; echo saved; exit 75' TERM\n"
        "echo training\n"
        "for _ in {1..600}; do sleep 0.05; done\n"
    )
    yield tmp_path
    launch("background.sh", "stop", root=tmp_path)


def _log(box: Path) -> str:
    path = box / "runs/background.log"
    return path.read_text() if path.exists() else ""


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("statuses", "runs"), [([75, 143, 76, 134, 0, 75], 5), ([1, 0], 1), ([2, 0], 1), ([0, 0], 1), ([137, 0], 1)]
)
def test_a_run_that_was_told_to_stop_or_lost_a_process_is_started_again(
    statuses: list[int], runs: int, box: Path
) -> None:
    (box / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    result = launch("gpu_box.sh", "run", "--a=b c", root=box)
    assert result.returncode == 0, result.stderr
    assert "Started. Output: " in result.stdout
    _wait_for(lambda: _log(box).count("exit status") == runs)
    _wait_for(lambda: "No run is active here." in launch("gpu_box.sh", "stop", root=box).stdout)
    assert _log(box).count("flags: --a=b c\n") == runs
    assert (box / "statuses").read_text().split() == [str(status) for status in statuses[runs:]]


@pytest.mark.parametrize(
    ("status", "restarts", "again"), [(75, 99, True), (76, 9, True), (76, 10, False), (134, 10, False)]
)
def test_restarts_after_a_loss_have_an_end(status: int, restarts: int, again: bool) -> None:
    program = f"source launch/common.sh; continues {status} {restarts}"
    assert (subprocess.run(["bash", "-c", program], cwd=ROOT).returncode == 0) == again


def test_stop_waits_until_the_run_has_saved_and_does_not_start_it_again(box: Path) -> None:
    (box / "statuses").write_text("wait\nwait\n")
    assert launch("background.sh", "start", root=box).returncode == 0
    _wait_for(lambda: "training" in _log(box))
    refused = launch("background.sh", "start", root=box)
    assert refused.returncode == 2
    assert "a run is active here; stop it first" in refused.stderr

    stopped = launch("background.sh", "stop", root=box)
    assert stopped.returncode == 0
    assert "exit status 75" in stopped.stdout
    assert "saved" in _log(box)
    assert (box / "statuses").read_text() == "wait\n"
    # And the same command continues it.
    assert launch("background.sh", "start", root=box).returncode == 0
    _wait_for(lambda: _log(box).count("training") == 2)


# --- The scripts themselves, and the notebook ----------------------------------------------------------------------


def test_shellcheck() -> None:
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("shellcheck is not installed; it is in the extra 'test'")
    files = [*map(str, SCRIPTS), ".ci/run"]
    result = subprocess.run([program, "--external-sources", *files], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_launcher_is_described() -> None:
    readme = (ROOT / "launch/README.md").read_text()
    for path in (ROOT / "launch").iterdir():
        assert path.name == "README.md" or path.name in readme, path


NOTEBOOK = ROOT / "launch/colab.ipynb"


def test_the_notebook_is_stored_without_its_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")  # the second training starts sooner
    notebook = copy.deepcopy(nbformat.read(NOTEBOOK, as_version=4))
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f"\nSTEPS, WIDTH, EXAMPLES, SAMPLES = 2, 0.01, 64, 3\nWORKDIR = {str(tmp_path / 'run')!r}\n"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "from the start, until step 2" in text
    assert "resumed at step 2, until step 4" in text
    pictures = [kind for output in outputs for kind in output.get("data", {}) if kind.startswith("image/")]
    # Samples of the packaged network, before and after the resume, the walk as a sheet and as a film, the curves.
    # Pillow shows JPEGs as well.
    assert [pictures.count(f"image/{kind}") for kind in ("gif", "png")] == [1, 5]
    assert (tmp_path / "run/walk/results.json").exists()
