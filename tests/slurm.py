"""A real Slurm with two nodes on this machine, for tests; as root, with Debian's packages slurm-wlm and munge.

Everything is its own: configuration, state, ports and munge daemon, so that the processes which share a test run each
have one, and none meets a Slurm that is installed here. Nodes have one processor each. A node that does not answer for
20 s is down (Slurm sees it within 35 s), and its jobs are requeued 5 s later. The fixture ``slurm`` (tests/conftest.py)
starts one per process that asks.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged", "setpriv")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/slurmd-%n
StateSaveLocation={folder}/state
SlurmctldPort={port}
SlurmdTimeout=20
SlurmctldTimeout=20
KillWait=10
MinJobAge=20
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000 State=UNKNOWN\n"
PARTITION = "PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP\n"


def unavailable() -> str:
    """Why no Slurm can be started here; "" if one can."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]:
        return f"no {missing[0]} here: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root starts a Slurm"


def wait_until(reached: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Look every tenth of a second; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@dataclass
class Cluster:
    """Two nodes, n1 and n2, in the partition main; from :meth:`start`.

    Args:
        folder: of configuration, logs and state.
    """

    folder: Path
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """To be added to the environment of whoever calls sbatch, srun, squeue or ``easybn --executor slurm``."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def start(self) -> None:
        """Start the daemons, and wait until both nodes are idle."""
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o755)
        host, (control, *ports) = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        nodes = "".join(NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, ports, strict=True))
        conf = CONFIGURATION.format(host=host, folder=self.folder, port=control) + nodes + PARTITION
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        names = {name: self.folder / f"munge.{name}" for name in ("socket", "pid", "log", "seed")}
        options = [f"--{name}{'-file' * (name != 'socket')}={path}" for name, path in names.items()]
        self._run("munged", "munged", "--foreground", "--force", f"--key-file={key}", *options)
        wait_until(names["socket"].exists, "munged is up")
        self._run("slurmctld", "slurmctld", "-D")
        for name in NODES:
            self.start_node(name)
        wait_until(lambda: self.nodes() == dict.fromkeys(NODES, "idle"), f"both nodes are idle ({self.folder})")

    def stop(self) -> None:
        """End every job and every daemon."""
        _kill(self.processes())  # without Slurm, whose state is not needed again
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        _kill(self.processes())

    def start_node(self, name: str) -> None:
        """Start a node's daemon, for the first time or after :meth:`lose_node`; poll :meth:`nodes` until it is idle."""
        self._run(name, "slurmd", "-D", "-N", name)

    def lose_node(self, name: str, steps: bool = True) -> None:
        """Kill a node's daemon, and the steps under it unless they are to live on."""
        self.daemons[name].kill()
        self.daemons.pop(name).wait()
        if steps:
            _kill(self.processes(name))

    def nodes(self) -> dict[str, str]:
        """State of each node: idle, allocated, down, ..."""
        lines = self.call("sinfo", "--noheader", "--Node", "--format=%N %T").split("\n")
        return dict(line.split() for line in lines if line)

    def jobs(self) -> dict[str, str]:
        """State of every job that waits or runs (PENDING, RUNNING, COMPLETING, ...), by its id (12, or 12_0)."""
        lines = self.call("squeue", "--noheader", "--array", "--format=%i %T").split("\n")
        return dict(line.split() for line in lines if line)

    def call(self, *words: str) -> str:
        """The output of one of Slurm's commands; CalledProcessError if it fails."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def processes(self, node: str | None = None) -> list[int]:
        """Ids of the processes of jobs, on one node or all of this cluster; first those by which Slurm watches them."""
        found: list[int] = []
        watching: set[int] = set()
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            with suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={self.folder}/slurm.conf".encode() not in environment:
                    continue
                here = [word.decode() for word in environment if word.startswith(b"SLURMD_NODENAME=")]
                if here and (node is None or here == [f"SLURMD_NODENAME={node}"]):
                    found.append(int(process.name))
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                        watching.add(parent)
        return [*watching, *found]

    def _run(self, name: str, *words: str) -> None:
        """Start a daemon that ends when this process does, however that ends."""
        environment = {**os.environ, **self.environment}
        with ExitStack() as stack:
            log = stack.enter_context((self.folder / f"{name}.out").open("ab"))
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True,
            )  # fmt: skip


def _kill(processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _path() -> str:
    """Root's PATH lacks Debian's folders of daemons in some shells."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _free_ports(count: int) -> Iterable[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
