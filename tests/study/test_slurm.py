"""Studies and evaluations as job arrays of a real Slurm (tests/slurm.py)."""


def test_a_step_runs_on_both_nodes(slurm):
    told = slurm.call("srun", "-N2", "-n2", "sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME")
    assert len({line.split()[1] for line in told.splitlines()}) == 2
    assert {line.split()[0] for line in told.splitlines()} == {"0", "1"}
