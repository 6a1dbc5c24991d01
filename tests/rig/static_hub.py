#!/usr/bin/env python3
"""Writes the files from which nginx alone answers as the hub does: no code between a client and the bytes, so that what is
measured or killed is the client. Standard library only.

usage: static_hub.py WORK FRONT_PORT CDN_PORT [--limit-rate RATE] [--log] ORG/NAME=FOLDER…

Files of LFS_BYTES and more are told as the hub tells large ones: SHA-256 in the listing, a redirect from the hub to the CDN
with the size and the hash in its headers. Smaller ones have git's SHA-1 and are served by the hub itself. Every file has its
place in the listing, one page however long; branch `main` is the one revision. Each connection to the CDN gets RATE bytes a
second (nginx's `limit_rate`: 3m). With --log, WORK/cdn.log has a line an answer of the CDN: status, bytes of the body, time.

Writes WORK/nginx.conf and what it includes; prints a line `ORG/NAME COMMIT` for each repo. Start and end it with

    nginx -c WORK/nginx.conf -e WORK/nginx.log
    kill $(cat WORK/nginx.pid)
"""
import argparse
import hashlib
import json
import os
import pathlib
import sys

LFS_BYTES = 100_000


def quoted(text):
    """A string of nginx's configuration. What would need more than quotes is not for a test's file."""
    if any(c in text for c in '"\\$;{}\n'):
        sys.exit(f"static_hub.py: {text!r} has a character that nginx's configuration gives a meaning")
    return f'"{text}"'


def entry(root, path):
    """A file as the hub's listing tells it."""
    size = path.stat().st_size
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            sha1.update(piece)
    name = path.relative_to(root).as_posix()
    if size < LFS_BYTES:
        return {"type": "file", "oid": sha1.hexdigest(), "size": size, "path": name}
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (sha256.hexdigest().encode(), size)
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    lfs = {"oid": sha256.hexdigest(), "size": size, "pointerSize": len(pointer)}
    return {"type": "file", "oid": oid, "size": size, "lfs": lfs, "path": name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("front_port", type=int)
    parser.add_argument("cdn_port", type=int)
    parser.add_argument("--limit-rate")
    parser.add_argument("--log", action="store_true")
    parser.add_argument("repos", nargs="+", metavar="ORG/NAME=FOLDER")
    options = parser.parse_args()
    work = options.work.resolve()
    (work / "temporary").mkdir(parents=True, exist_ok=True)

    front, cdn = [], []
    for number, repo in enumerate(options.repos):
        name, _, folder = repo.partition("=")
        root = pathlib.Path(folder).resolve()
        files = [entry(root, path) for path in sorted(root.rglob("*")) if path.is_file()]
        tree = json.dumps(files)
        commit = hashlib.sha1(tree.encode()).hexdigest()
        (work / f"{number}.tree.json").write_text(tree)
        (work / f"{number}.revision.json").write_text(json.dumps({"id": name, "modelId": name, "sha": commit}))
        for revision in ("main", commit):
            front += [
                f"location = /api/models/{name}/revision/{revision} {{ alias {quoted(f'{work}/{number}.revision.json')}; }}",
                f"location = /api/models/{name}/tree/{revision} {{ alias {quoted(f'{work}/{number}.tree.json')}; }}",
            ]
        for file in files:
            here = quoted(f"/{name}/resolve/{commit}/{file['path']}")
            if "lfs" in file:
                sha256 = file["lfs"]["oid"]
                front.append(
                    f"location = {here} {{ add_header X-Repo-Commit {commit} always; add_header X-Linked-Size {file['size']} always; "
                    f"add_header X-Linked-Etag '\"{sha256}\"' always; return 302 http://127.0.0.1:{options.cdn_port}/{sha256}; }}"
                )
                cdn.append(f"location = /{sha256} {{ alias {quoted(str(root / file['path']))}; }}")
            else:
                front.append(
                    f"location = {here} {{ etag off; add_header ETag '\"{file['oid']}\"'; add_header X-Repo-Commit {commit}; "
                    f"default_type text/plain; types {{}} alias {quoted(str(root / file['path']))}; }}"
                )
        print(name, commit)
    # Two repos may hold the same content.
    (work / "cdn.conf").write_text("\n".join(sorted(set(cdn))) + "\n")
    (work / "front.conf").write_text("\n".join(front) + "\n")

    # nginx gives what a rate allows in strokes of up to 2 MB, which lie in the system's buffers and are lost with a killed reader:
    # small strokes and buffers make what was sent nearly what was read.
    limit = f"limit_rate {options.limit_rate}; sendfile_max_chunk 128k;" if options.limit_rate else ""
    buffer = "sndbuf=128k" if options.limit_rate else ""
    log = f"access_log {work}/cdn.log answer;" if options.log else ""
    temporary = " ".join(f"{kind}_temp_path {work}/temporary/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (work / "nginx.conf").write_text(f"""{user}
worker_processes 1; daemon on; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  {temporary}
  log_format answer "$status $body_bytes_sent $msec";
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{options.front_port} backlog=1024; default_type application/json;
    include {work}/front.conf;
    location / {{ return 404; }}
  }}
  server {{ listen 127.0.0.1:{options.cdn_port} backlog=1024 {buffer}; default_type application/octet-stream; {limit} {log}
    include {work}/cdn.conf;
    location / {{ return 404; }}
  }}
}}
""")


if __name__ == "__main__":
    main()
