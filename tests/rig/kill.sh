#!/usr/bin/env bash
# kill -9 at random moments of a fetch; the same command is then to bring the rest: at most 8 MiB come twice, and what gets its
# name in the end is whole. nginx serves (tests/rig/static_hub.py) at a rate that makes a fetch take some seconds, and its log
# says how many bytes it gave. Needs python3 and nginx.
#
#   tests/rig/kill.sh [path to hoist]
#
# Each time the process is stopped first, so that what the system holds for it unread can be counted, and killed as it stands:
# it does not run again in between. Counted in bytes of bodies:
#   kept     what the second run says that the first had left
#   lost     what the first run had read - kept: what nginx sent it, without what lay unread in the system
#   twice    what the first run had read + what nginx sent the second - size; this holds what the second asked for although it
#            had it, and what it dropped when it gave the rest of a slow range to another connection. At most 8 MiB
#
# environment: KILLS=20   SIZE_MB=200   RATE=5m (bytes a second for each connection, as nginx writes it)   SEED= (default: drawn)
#              REPORT= (a file that gets a JSON line a kill)
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
hoist=${1:-$here/target/debug/hoist}
[ -x "$hoist" ] || { echo "no hoist at $hoist: cargo build first" >&2; exit 2; }
command -v nginx > /dev/null || { echo "kill.sh: nginx is needed" >&2; exit 2; }

work=$(mktemp -d)
finish() {
    code=$?
    [ $code = 0 ] || tail -n 20 "$work"/*.log >&2 || true
    [ ! -f "$work/hub/nginx.pid" ] || kill "$(cat "$work/hub/nginx.pid")" 2> /dev/null || true
    rm -rf "$work"
}
trap finish EXIT
unset HTTP_PROXY HTTPS_PROXY http_proxy https_proxy HF_TOKEN HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE || true
export HOME=$work/home
mkdir -p "$HOME" "$work/model" "$work/hub"
head -c $((${SIZE_MB:-200} * 1000000)) /dev/urandom > "$work/model/model.safetensors"
echo '{}' > "$work/model/config.json"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
front=$(free_port) cdn=$(free_port)
python3 "$here/tests/rig/static_hub.py" "$work/hub" "$front" "$cdn" --limit-rate "${RATE:-5m}" --log "acme/large=$work/model" > /dev/null
nginx -c "$work/hub/nginx.conf" -e "$work/hub/nginx.log"
export HF_ENDPOINT=http://127.0.0.1:$front

python3 - "$hoist" "$work" "${KILLS:-20}" "${SEED:-}" "${REPORT:-}" "$cdn" << 'PY'
import filecmp, json, pathlib, random, shutil, signal, statistics, subprocess, sys, time

hoist, work, kills, seed, report = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
seed = int(seed or random.SystemRandom().randrange(2**32))
draw = random.Random(seed)
source = work / "model/model.safetensors"
size = source.stat().st_size
cache = work / "cache"
log = work / "hub/cdn.log"
LIMIT = 8 << 20
cdn_port = int(sys.argv[6])
command = [hoist, "fetch", "acme/large", "--cache-dir", str(cache), "--json", "--progress", "none"]


def fail(why):
    sys.exit(f"kill.sh: {why} (SEED={seed})")


def sent():
    """Bytes of bodies that nginx sent since the last call. It writes a line when an answer ends or its reader is gone, which it
    notices when it next has bytes to send."""
    before = -1
    while (now := log.stat().st_size if log.exists() else 0) != before:
        before = now
        time.sleep(0.4)
    lines = log.read_text().splitlines()
    total = sum(int(line.split()[1]) for line in lines[sent.lines_count:] if line.split()[0] in ("200", "206"))
    sent.lines_count = len(lines)
    return total


sent.lines_count = 0


def unread():
    """Bytes that nginx sent to the CDN's port's clients and that these have not read: they lie in the system."""
    total = 0
    for line in open("/proc/net/tcp").readlines()[1:]:
        fields = line.split()
        (local, remote), (sending, received) = (
            [int(address.split(":")[1], 16) for address in fields[1:3]],
            [int(queue, 16) for queue in fields[4].split(":")],
        )
        if fields[3] == "01":  # established
            total += (sending if local == cdn_port else 0) + (received if remote == cdn_port else 0)
    return total


def whole():
    found = [path for path in cache.rglob("model.safetensors") if path.exists()]
    if len(found) != 1 or not filecmp.cmp(found[0], source, shallow=False):
        fail("what was fetched is not what was served")
    left = [path.name for path in cache.rglob("*") if path.is_file() and "incomplete" in path.name]
    if left:
        fail(f"left behind: {left}")


def run():
    begun = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    if done.returncode != 0:
        fail(f"exit code {done.returncode}: {done.stderr.decode()}")
    whole()
    return json.loads(done.stdout), time.monotonic() - begun


_, whole_seconds = run()
first = sent()
if first != size:
    print(f"note: without a kill nginx sent {first - size:+,} bytes beside the size")
print(f"{size / 1e6:.0f} MB take {whole_seconds:.1f} s undisturbed; SEED={seed}")

rows = []
while len(rows) < kills:
    shutil.rmtree(cache)
    sent()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment = draw.uniform(0.05, 1.0) * whole_seconds
    try:
        process.wait(timeout=moment)
        continue  # It was faster this time, and nothing was killed.
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGSTOP)
        lying = unread()
        process.kill()
        process.wait()
    if any(path.exists() for path in cache.rglob("model.safetensors")):
        continue  # Killed behind the work.
    read = sent() - lying
    document, _ = run()
    after = sent()
    kept = document["resumed_bytes"]
    row = {
        "moment_seconds": round(moment, 3),
        "unread_bytes": lying,
        "first_bytes": read,
        "kept_bytes": kept,
        "second_bytes": after,
        "lost_bytes": read - kept,
        "twice_bytes": read + after - size,
    }
    rows.append(row)
    print(f"  {moment:5.2f} s: {read / 1e6:6.1f} MB read, {kept / 1e6:6.1f} kept, {after / 1e6:6.1f} sent then; lost "
          f"{row['lost_bytes'] / 2**20:5.2f} MiB, twice {row['twice_bytes'] / 2**20:5.2f} ({lying / 2**20:.2f} lay unread)")
    if report:
        with open(report, "a") as out:
            out.write(json.dumps(row) + "\n")
    if kept == 0 and read > LIMIT:
        fail("nothing was kept")
    for what in ("lost_bytes", "twice_bytes"):
        if row[what] > LIMIT:
            fail(f"{what} is {row[what]:,}, limit {LIMIT:,}")

for what in ("lost_bytes", "twice_bytes"):
    values = [row[what] / 2**20 for row in rows]
    print(f"{what[:-6]}: median {statistics.median(values):.2f} MiB, least {min(values):.2f}, most {max(values):.2f}, limit {LIMIT / 2**20:.0f}")
print(f"ok  {len(rows)} times killed and taken up again")
PY
