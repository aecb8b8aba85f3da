"""The paper's claims against our rows: what is claimed, where, what supports it here, and the verdict.

C1 the stacked experiment, C2 clean accuracy, C3 PGD, C4 AutoAttack, C5 both methods against basic training, C6 hidden
states. A verdict is by the 95% interval of a difference paired by seed: holds, does not hold, or undecided at this
scale; a claim that nothing was measured for says so.

easybn claims runs/cpu
easybn claims results --all --format markdown
"""

from jsonargparse import Namespace

from ..terminal import Terminal
from .arguments import Parser
from .report import FORMATS, add_across, printed


def configure(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="of run folders, and of stacked experiments")
    add_across(parser)
    parser.add_argument("--all", action="store_true", help="every comparison too")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="how to print them")


def run(arguments: Namespace) -> None:
    from ..paper.claims import judge
    from ..paper.claims_table import claims_table, claims_text, evidence_table
    from ..tables.rows import read

    judged = judge(read(arguments.folder, arguments.across))
    every = [evidence_table(judged)] if arguments.all else []
    if arguments.format == "terminal":
        Terminal().print(claims_text(judged))
        printed(every, arguments.format)
    else:
        printed([claims_table(judged), *every], arguments.format)
