#!/usr/bin/env python3
"""hoist and huggingface_hub share one cache: what one fetches the other opens, without a network.

    python tests/clients/hub_cache.py PATH_OF_HOIST

Needs huggingface_hub 2.x (`setup_python.sh` installs it). A small hub of our own serves two repos on loopback; every
check runs the real client against the files that hoist left, and hoist against the files that the client left. Prints a line
a check and exits with 1 if one failed.
"""

import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HOIST = sys.argv[1] if len(sys.argv) > 1 else "target/release/hoist"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# The same bytes under two names, an empty file, folders, a file in LFS beside small ones, and what hoist leaves out.
WEIGHTS = os.urandom(3 << 20)
WHOLE = {
    "config.json": (b'{"model_type": "llama"}', False),
    "README.md": (b"# A model\n", False),
    "empty.txt": (b"", False),
    "model.safetensors": (WEIGHTS, True),
    "tokenizer/tokenizer.json": (b"{}", False),
    "tokenizer/deeper/still/copy.json": (b"{}", False),
}
PARTLY = {**WHOLE, "pytorch_model.bin": (os.urandom(1 << 20), True), "onnx/model.onnx": (os.urandom(1000), True)}
REPOS = {"acme/whole": WHOLE, "acme/partly": PARTLY}
REQUESTS = []


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        REQUESTS.append((self.command, path))
        if m := re.fullmatch(r"/api/models/(acme/\w+)/revision/(.+)", path):
            if m[1] not in REPOS or m[2] not in ("main", COMMIT):
                return self.answer(404, b"{}", [("X-Error-Code", "RevisionNotFound")])
            return self.answer(200, json.dumps({"id": m[1], "sha": COMMIT, "siblings": []}).encode())
        if m := re.fullmatch(rf"/api/models/(acme/\w+)/tree/{COMMIT}", path):
            rows = []
            for name, (data, lfs) in REPOS[m[1]].items():
                row = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
                if lfs:
                    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
                    row["oid"] = git_sha1(pointer % (sha256(data).encode(), len(data)))
                    row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
                rows.append(row)
            return self.answer(200, json.dumps(rows).encode())
        if m := re.fullmatch(rf"/(acme/\w+)/resolve/{COMMIT}/(.+)", path):
            if m[2] not in REPOS[m[1]]:
                return self.answer(404, b"", [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)])
            data, lfs = REPOS[m[1]][m[2]]
            etag = sha256(data) if lfs else git_sha1(data)
            headers = [("X-Repo-Commit", COMMIT), ("ETag", f'"{etag}"'), ("Accept-Ranges", "bytes")]
            if lfs:
                headers += [("X-Linked-Etag", f'"{etag}"'), ("X-Linked-Size", str(len(data)))]
            if r := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, last = int(r[1]), min(int(r[2]), len(data) - 1)
                headers.append(("Content-Range", f"bytes {first}-{last}/{len(data)}"))
                return self.answer(206, data[first : last + 1], headers)
            return self.answer(200, data, headers)
        self.answer(404, b"")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
ENDPOINT = f"http://127.0.0.1:{server.server_port}"
ROOT = Path(tempfile.mkdtemp(prefix="hub-cache-"))
FAILED = []


def env(cache, **more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE_", "HOIST_"))}
    own = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": ENDPOINT, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(ROOT / "home")}
    return {**keep, **own, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}


def hoist(cache, *args, code=0, user=None, **more):
    run = subprocess.run(
        [HOIST, *args], env=env(cache, **more), capture_output=True, text=True, timeout=120, user=user
    )
    if run.returncode != code:
        raise AssertionError(f"hoist {' '.join(args)}: exit {run.returncode}, expected {code}\n{run.stderr}{run.stdout}")
    return run


CLIENT = """
import sys, json
from huggingface_hub import snapshot_download, scan_cache_dir
print(snapshot_download(sys.argv[1], **json.loads(sys.argv[2])))
"""


def client(cache, repo, code=0, **args):
    offline = {"HF_HUB_OFFLINE": "1"} if args.pop("offline", False) else {}
    command = [sys.executable, "-c", CLIENT, repo, json.dumps(args)]
    run = subprocess.run(command, env=env(cache, **offline), capture_output=True, text=True, timeout=120)
    if (run.returncode != 0) != (code != 0):
        raise AssertionError(f"huggingface_hub {repo} {args}: exit {run.returncode}\n{run.stderr}")
    return run.stdout.strip() if code == 0 else run.stderr


def same(path, files):
    """The files under a path are these, byte for byte."""
    for name, (data, _) in files.items():
        found = (Path(path) / name).read_bytes()
        assert found == data, f"{name}: {len(found)} bytes differ from {len(data)}"


def names_below(root):
    return sorted(str(p.relative_to(root)) for p in Path(root).rglob("*") if not p.is_dir() or p.is_symlink())


def check(name):
    def run(test):
        REQUESTS.clear()
        started = time.monotonic()
        cache = ROOT / re.sub(r"\W+", "-", name)
        try:
            test(cache)
            print(f"ok      {name}   {time.monotonic() - started:.1f} s")
        except Exception as error:
            FAILED.append(name)
            print(f"FAILED  {name}: {error}")

    return run


@check("hoist fetches, Python opens offline")
def _(cache):
    path = hoist(cache, "fetch", "acme/whole").stdout.strip()
    assert client(cache, "acme/whole", local_files_only=True) == path
    assert client(cache, "acme/whole", offline=True) == path
    same(path, WHOLE)


@check("both leave the same files")
def _(cache):
    hoist(cache, "fetch", "acme/whole")
    other = cache.with_name("python-s")
    client(other, "acme/whole")
    ours, theirs = names_below(cache), names_below(other)
    # The locks: Python leaves some of them.
    plain = lambda names: [n for n in names if not n.startswith(".locks/")]
    assert plain(ours) == plain(theirs), f"{set(plain(ours)) ^ set(plain(theirs))}"
    assert set(ours) <= set(theirs) | {n for n in ours if n.startswith(".locks/")}
    for name in plain(ours):
        a, b = cache / name, other / name
        assert a.is_symlink() == b.is_symlink(), name
        if a.is_symlink():
            assert os.readlink(a) == os.readlink(b), f"{name}: {os.readlink(a)} {os.readlink(b)}"
        elif name.endswith(".json") and "/trees/" in name:
            assert json.loads(a.read_text()) == json.loads(b.read_text()), name
        elif not name.endswith("CACHEDIR.TAG"):
            assert a.read_bytes() == b.read_bytes(), name
            assert a.stat().st_mode == b.stat().st_mode, f"{name}: {oct(a.stat().st_mode)} {oct(b.stat().st_mode)}"


@check("a part of a repo: Python opens what is there")
def _(cache):
    run = hoist(cache, "fetch", "acme/partly")
    path = run.stdout.strip()
    assert "pytorch_model.bin" in run.stderr and "onnx/model.onnx" in run.stderr, run.stderr
    assert client(cache, "acme/partly", local_files_only=True) == path
    same(path, WHOLE)
    assert not (Path(path) / "pytorch_model.bin").exists()
    # Python, online, brings the rest and no more.
    REQUESTS.clear()
    assert client(cache, "acme/partly") == path
    same(path, PARTLY)
    bodies = {p.split("/resolve/")[1].split("/", 1)[1] for c, p in REQUESTS if c == "GET" and "/resolve/" in p}
    assert bodies == {"pytorch_model.bin", "onnx/model.onnx"}, bodies
    # And hoist finds it whole.
    hoist(cache, "fetch", "acme/partly", "--all", "--offline")


@check("Python fetches, hoist opens offline")
def _(cache):
    path = client(cache, "acme/whole")
    REQUESTS.clear()
    assert hoist(cache, "fetch", "acme/whole", "--offline").stdout.strip() == path
    assert hoist(cache, "fetch", "acme/whole", HF_HUB_OFFLINE="1").stdout.strip() == path
    assert not REQUESTS
    # Online, what is there is not fetched again: the revision and nothing else, Python left the listing.
    hoist(cache, "fetch", "acme/whole")
    assert [p for _, p in REQUESTS] == ["/api/models/acme/whole/revision/main"], REQUESTS
    hoist(cache, "cache", "verify")


@check("Python fetches a part, hoist says what is missing and brings it")
def _(cache):
    client(cache, "acme/whole", allow_patterns=["*.json"])
    run = hoist(cache, "fetch", "acme/whole", "--offline", code=3)
    assert "`model.safetensors`" in run.stderr, run.stderr
    client(cache, "acme/whole", code=1, local_files_only=True)
    path = hoist(cache, "fetch", "acme/whole").stdout.strip()
    same(path, WHOLE)
    assert client(cache, "acme/whole", local_files_only=True) == path


@check("what Python left half done is not taken up")
def _(cache):
    blobs = cache / "models--acme--whole" / "blobs"
    blobs.mkdir(parents=True)
    for end in (".incomplete", ".0a1b2c3d.incomplete"):
        (blobs / (sha256(WEIGHTS) + end)).write_bytes(b"wrong" * 1000)
    same(hoist(cache, "fetch", "acme/whole").stdout.strip(), WHOLE)


@check("a read-only cache")
def _(cache):
    path = hoist(cache, "fetch", "acme/whole").stdout.strip()
    before = names_below(cache)
    # Root may write anywhere: another user then, for whom the way here is opened.
    user = 65534 if os.geteuid() == 0 else None
    ROOT.chmod(0o755)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(cache)], check=True)
    try:
        run = hoist(cache, "fetch", "acme/whole", user=user)
        assert run.stdout.strip() == path and "not noted" not in run.stderr, run.stderr
        run = hoist(cache, "fetch", "acme/partly", code=4, user=user)
        assert str(cache) in run.stderr, run.stderr
        assert names_below(cache) == before
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(cache)], check=True)


@check("without links")
def _(cache):
    path = hoist(cache, "fetch", "acme/whole", HF_HUB_DISABLE_SYMLINKS="1").stdout.strip()
    same(path, WHOLE)
    assert not any(p.is_symlink() for p in Path(path).rglob("*"))
    assert client(cache, "acme/whole", local_files_only=True) == path
    REQUESTS.clear()
    hoist(cache, "fetch", "acme/whole", HF_HUB_DISABLE_SYMLINKS="1")
    assert all("/resolve/" not in p for _, p in REQUESTS), REQUESTS
    hoist(cache, "cache", "verify")


@check("blobs that repos share, as Python leaves them")
def _(cache):
    path = Path(client(cache, "acme/whole"))
    blob = cache / "models--acme--whole" / "blobs" / sha256(WEIGHTS)
    store = cache / "blobs" / "ab" / ("ab" + "0" * 62)
    store.parent.mkdir(parents=True)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))
    (path / "model.safetensors").unlink()
    REQUESTS.clear()
    assert hoist(cache, "fetch", "acme/whole", "--offline").stdout.strip() == str(path)
    same(path, WHOLE)
    hoist(cache, "cache", "verify")
    store.write_bytes(WEIGHTS[:-1] + b"?" if WEIGHTS[-1:] != b"?" else WEIGHTS[:-1] + b"!")
    hoist(cache, "cache", "verify", code=7)
    hoist(cache, "fetch", "acme/whole", "--require-hash")
    same(path, WHOLE)


@check("a folder: hoist fetches, Python goes on")
def _(cache):
    folder = cache / "out"
    assert hoist(cache, "fetch", "acme/whole", "--local-dir", str(folder)).stdout.strip() == str(folder)
    same(folder, WHOLE)
    REQUESTS.clear()
    client(cache, "acme/whole", local_dir=str(folder))
    # The revision; its listing and all files are there.
    assert all("/resolve/" not in p for _, p in REQUESTS), REQUESTS
    client(cache, "acme/whole", local_dir=str(folder), local_files_only=True)
    assert (folder / ".cache/huggingface/.gitignore").read_text() == "*"


@check("a folder: Python fetches, hoist goes on")
def _(cache):
    folder = cache / "out"
    client(cache, "acme/whole", local_dir=str(folder))
    REQUESTS.clear()
    hoist(cache, "fetch", "acme/whole", "--local-dir", str(folder))
    assert all("/resolve/" not in p for _, p in REQUESTS), REQUESTS
    hoist(cache, "fetch", f"acme/whole@{COMMIT}", "--local-dir", str(folder), "--offline")
    # Changed by hand: brought again. Copied by hand: taken as it is.
    (folder / "config.json").write_bytes(b'{"model_type": "other"}')
    os.utime(folder / "config.json", (time.time() + 10, time.time() + 10))
    shutil.rmtree(folder / ".cache/huggingface/download/tokenizer")
    REQUESTS.clear()
    hoist(cache, "fetch", "acme/whole", "--local-dir", str(folder))
    same(folder, WHOLE)
    asked = {p.rsplit("/", 1)[1] for _, p in REQUESTS if "/resolve/" in p}
    assert asked == {"config.json"}, asked


@check("a folder: what the cache has is copied")
def _(cache):
    client(cache, "acme/whole")
    folder = cache / "out"
    REQUESTS.clear()
    hoist(cache, "fetch", "acme/whole", "--local-dir", str(folder))
    same(folder, WHOLE)
    assert not any((folder / n).is_symlink() for n in WHOLE)
    assert all("/resolve/" not in p for _, p in REQUESTS), REQUESTS


@check("a file that is not there is noted as Python notes it")
def _(cache):
    hoist(cache, "fetch", "acme/whole")
    hoist(cache, "fetch", "acme/whole", "--include", "adapter_config.json", code=3)
    code = "from huggingface_hub import try_to_load_from_cache as t, _CACHED_NO_EXIST as n; assert t('acme/whole', 'adapter_config.json') is n"
    subprocess.run([sys.executable, "-c", code], env=env(cache), check=True)


@check("Python's view of the cache is sound, and removal leaves it so")
def _(cache):
    hoist(cache, "fetch", "acme/whole")
    hoist(cache, "fetch", "acme/partly")
    code = (
        "from huggingface_hub import scan_cache_dir as s; i = s(); assert not i.warnings, i.warnings; "
        "print(sorted((r.repo_id, r.nb_files, r.size_on_disk) for r in i.repos))"
    )
    scan = lambda: subprocess.run([sys.executable, "-c", code], env=env(cache), check=True, capture_output=True, text=True).stdout
    assert scan().count("acme/") == 2, scan()
    listed = json.loads(hoist(cache, "cache", "ls", "--json").stdout)
    assert [r["id"] for r in listed["repos"]] == ["acme/partly", "acme/whole"], listed
    hoist(cache, "cache", "rm", "acme/partly", code=2)
    hoist(cache, "cache", "rm", "acme/partly", "--yes")
    assert scan().count("acme/") == 1
    hoist(cache, "cache", "rm", COMMIT, "--yes")
    assert scan().strip() == "[]"


@check("a lock file binds")
def _(cache):
    lock = ROOT / "models.lock"
    hoist(cache, "fetch", "acme/partly", "--lock", str(lock), "--locked", code=3)
    hoist(cache, "fetch", "acme/partly", "--lock", str(lock))
    first = lock.read_text()
    other = cache.with_name("locked")
    same(hoist(other, "fetch", "acme/partly", "--lock", str(lock), "--locked").stdout.strip(), WHOLE)
    hoist(other, "fetch", "acme/partly", "--lock", str(lock))
    assert lock.read_text() == first
    for name, (data, _) in WHOLE.items():
        assert f'path = "{name}"\nsize = {len(data)}\nsha256 = "{sha256(data)}"' in first, name
    lock.write_text(first.replace(sha256(WHOLE["config.json"][0]), "0" * 64))
    run = hoist(other, "fetch", "acme/partly", "--lock", str(lock), "--locked", code=7)
    assert "config.json" in run.stderr, run.stderr


shutil.rmtree(ROOT, ignore_errors=True)
server.shutdown()
print(f"{len(FAILED)} failed" if FAILED else "all ok")
sys.exit(1 if FAILED else 0)
