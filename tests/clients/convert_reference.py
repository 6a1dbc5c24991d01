#!/usr/bin/env python3
"""Run llama.cpp's own convert_hf_to_gguf.py, naming the BPE splitting instead of letting it guess by hash.

usage: convert_reference.py [--pre NAME] [--llamacpp DIR] -- MODEL_DIR --outfile OUT.gguf --outtype f32 …
       convert_reference.py [--llamacpp DIR] --jobs FILE

The converter hashes a test string's token ids and knows only published tokenizers; one trained here is unknown to it.
--pre answers in its place. Everything else is the original, unchanged.

--jobs: a JSON array of {"args": [MODEL_DIR, "--outfile", …], "pre": NAME or null, "log": FILE}, each carried out in a process
of its own forked from one that has torch and the converter imported, which costs seconds each time. Prints a line for each
that failed; exit 1 if one did.
"""
import argparse
import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def script_of(llamacpp):
    if not llamacpp:
        sys.exit("no llama.cpp: pass --llamacpp DIR or set LLAMACPP (see get_llamacpp.sh)")
    script = Path(llamacpp, "convert/convert_hf_to_gguf.py").resolve()
    if not script.exists():
        sys.exit(f"no {script}")
    if str(script.parent) not in sys.path:
        sys.path[:0] = [str(script.parent), str(script.parent / "gguf-py")]
    return script


def run(script, args, pre):
    """In this process; the converter keeps state on its classes, so once a process."""
    if pre:
        from conversion import base
        base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = [str(script), *args]
    runpy.run_path(str(script), run_name="__main__")


def run_jobs(jobs, llamacpp=None):
    """Carries out jobs, one process each; the indices of those that failed."""
    script = script_of(llamacpp or os.environ.get("LLAMACPP"))
    import gguf  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from conversion import base  # noqa: F401

    torch.set_num_threads(1)             # a pool of threads does not survive a fork
    failed = []
    for i, job in enumerate(jobs):
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                log = os.open(job["log"], os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
                os.dup2(log, 1)
                os.dup2(log, 2)
                run(script, list(map(str, job["args"])), job.get("pre"))
                code = 0
            except SystemExit as e:
                code = int(e.code) if isinstance(e.code, int) else (1 if e.code else 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            failed.append(i)
    return failed


def last_line(log):
    lines = [l for l in Path(log).read_text(errors="replace").splitlines() if l.strip()]
    return lines[-1] if lines else "no output"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--pre")
    ap.add_argument("--llamacpp", default=os.environ.get("LLAMACPP"))
    ap.add_argument("--jobs", type=Path)
    ap.add_argument("rest", nargs=argparse.REMAINDER)
    args = ap.parse_args()
    if args.jobs:
        jobs = json.loads(args.jobs.read_text())
        failed = run_jobs(jobs, args.llamacpp)
        for i in failed:
            print(f"{' '.join(map(str, jobs[i]['args']))}: {last_line(jobs[i]['log'])}", file=sys.stderr)
        sys.exit(1 if failed else 0)
    run(script_of(args.llamacpp), [a for a in args.rest if a != "--"], args.pre)


if __name__ == "__main__":
    main()
