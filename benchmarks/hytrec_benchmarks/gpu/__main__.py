"""`python -m hytrec_benchmarks.gpu`: prepare, run, report. Of the standard library alone, for a bare GPU machine.

python -m hytrec_benchmarks.gpu prepare OUT
python -m hytrec_benchmarks.gpu run FOLDER --minutes 8
python -m hytrec_benchmarks.gpu report RESULTS...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hytrec.errors import HytrecError
from hytrec_benchmarks.gpu.bundle import BundleError

DEFAULT_RUN = Path("runs/gpu")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.work(options))
    except HytrecError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; what was measured is kept", file=sys.stderr)  # noqa: T201
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hytrec_benchmarks.gpu", description="GPU truth in minutes.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = commands.add_parser("prepare", help="make the folder that travels to the GPU machine; needs no GPU")
    made.add_argument("output", type=Path, help="where the folder goes")
    made.add_argument(
        "--run", type=Path, help="run folder of `hytrec train`; without one, one is trained for two minutes"
    )
    made.add_argument("--quick", action="store_true", help="small sizes, to rehearse")
    made.set_defaults(work=_prepare)
    run = commands.add_parser("run", help="measure on this machine")
    run.add_argument("folder", type=Path, help="what `prepare` made")
    run.add_argument("--minutes", type=float, default=8, help="ends within this (default 8)")
    run.add_argument("--output", type=Path, default=Path("gpu_results.jsonl"), help="JSON lines, written as they come")
    run.add_argument("--device", default="cuda", help="cuda, cuda:1 or, to rehearse, cpu")
    run.add_argument("--quick", action="store_true", help="small sizes, to rehearse; the figures then mean nothing")
    run.set_defaults(work=_run)
    check = commands.add_parser("check", help="one check in this process; `run` starts it")
    check.add_argument("name")
    check.add_argument("folder", type=Path)
    check.add_argument("output", type=Path)
    check.add_argument("--device", default="cuda")
    check.add_argument("--quick", action="store_true")
    check.set_defaults(work=_check)
    report = commands.add_parser("report", help="write docs/gpu_results.md from the results of one run or several")
    report.add_argument("results", type=Path, nargs="+", help="files of `run --output`")
    report.add_argument("--page", type=Path, default=Path("docs/gpu_results.md"), help="the page")
    report.add_argument("--images", type=Path, default=Path("docs/images"), help="folder of its picture")
    report.set_defaults(work=_report)
    return parser


def _prepare(options: argparse.Namespace) -> int:
    from hytrec_benchmarks.gpu.prepare import LENGTHS, prepare, trained_run  # noqa: PLC0415  not on the GPU machine

    lengths = tuple(length for length in LENGTHS if length <= 100) if options.quick else LENGTHS
    run = options.run or trained_run(DEFAULT_RUN, quick=options.quick, say=_say)
    size = prepare(run, options.output, lengths=lengths, say=_say)
    print(f"{options.output}: {size / 2**20:.1f} MiB")  # noqa: T201
    return 0


def _run(options: argparse.Namespace) -> int:
    import torch  # noqa: PLC0415  `--help` answers at once

    from hytrec_benchmarks.gpu.report import summary  # noqa: PLC0415
    from hytrec_benchmarks.gpu.runner import run_checks  # noqa: PLC0415

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise BundleError(
            f"PyTorch {torch.__version__} finds no GPU; install its CUDA build, or rehearse with --device cpu --quick"
        )
    records = run_checks(
        options.folder,
        options.output,
        device=options.device,
        minutes=options.minutes,
        quick=options.quick,
        say=_say,
    )
    print(summary(records))  # noqa: T201
    return 0


def _check(options: argparse.Namespace) -> int:
    from hytrec_benchmarks.gpu.runner import run_check  # noqa: PLC0415

    run_check(options.name, options.folder, options.output, device=options.device, quick=options.quick)
    return 0


def _report(options: argparse.Namespace) -> int:
    from hytrec_benchmarks.gpu.report import write_report  # noqa: PLC0415

    write_report(options.results, options.page, options.images)
    print(options.page)  # noqa: T201
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
