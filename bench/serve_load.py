"""`lorafab serve` under load: how long pages take, how much memory, and whether it stays alive.

    python3 bench/serve_load.py LORAFAB STORE pages            # list, filter, search: 50th and 95th percentile in ms, one at a time, beside a writer
    python3 bench/serve_load.py LORAFAB STORE random 100000    # so many random requests, 64 at a time

A store of a hundred thousand adapters: LORAFAB_BENCH_STORE=DIR cargo test --release --workspace --test hundred_thousand -- --ignored
"""
import asyncio, json, pathlib, random, statistics, subprocess, sys, threading, time

lorafab, store, what = sys.argv[1:4]
PAGES = {
    "list": "/adapters", "deep page": "/adapters?page=900", "sorted": "/adapters?sort=-gate_on", "sorted by text": "/adapters?sort=behaviour",
    "filter": "/adapters?where=family%20%3D%20topic", "filter by a number": "/adapters?where=gate_on%20%3E%3D%200.9%20and%20status%20%3D%20learned",
    "search": "/adapters?where=cat", "search for nothing": "/adapters?where=zzzzqqqq", "queue": "/queue", "runs": "/runs",
}


async def ask(address, path, method="GET"):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n\r\n".encode("utf-8", "replace"))
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return int(answer.split(b" ", 2)[1]) if answer else 0


def odd():
    parts = ["/adapters", "/adapter/", "/queue", "/runs", "/run/", "/live.js", "/", "?where=", "?sort=", "&page=", "%00", "..%2f", "'", "%22", "(", "=", "topic", "*",
             "<script>", "%ff", "and%20", "9999999999999999999", "-1", "\u00e9", "a" * random.randrange(300)]
    return "/" + "".join(random.choices(parts, k=random.randrange(1, 7))).lstrip("/").replace(" ", "%20")


def memory(pid, key):
    line = next(l for l in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) / 1024


async def pages(address):
    for name, path in PAGES.items():
        times = []
        for _ in range(40):
            begin = time.perf_counter()
            status = await ask(address, path)
            times.append(1000 * (time.perf_counter() - begin))
            assert status == 200, (name, status)
        times.sort()
        print(f"{name:20} {statistics.median(times):7.1f} {times[int(0.95 * len(times))]:7.1f} ms")


class Writer(threading.Thread):
    """Somebody who tags an adapter again and again, each time as a process of its own."""

    def run(self):
        self.ended, self.written = False, 0
        command = [lorafab, "--store", store, "--quiet"]
        listed = subprocess.run([*command, "--json", "adapter", "list", "-n", "1"], capture_output=True, check=True).stdout
        adapter = json.loads(listed)["adapters"][0]["id"]
        while not self.ended:
            subprocess.run([*command, "adapter", "tag", adapter, f"seen={self.written}"], check=True, stdout=subprocess.DEVNULL)
            self.written += 1


async def many(address, count):
    seen, left = {}, iter(range(count))

    async def one():
        for _ in left:
            method = random.choice(["GET"] * 8 + ["HEAD", "POST"])
            status = await ask(address, odd(), method)
            seen[status] = seen.get(status, 0) + 1

    await asyncio.gather(*(one() for _ in range(64)))
    print(dict(sorted(seen.items())))
    assert await ask(address, "/adapters") == 200


server = subprocess.Popen([lorafab, "--store", store, "--quiet", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
try:
    host, port = server.stdout.readline().strip().removeprefix("http://").rsplit(":", 1)
    writer = Writer(daemon=True)
    if what == "pages":
        writer.start()
        time.sleep(3)
    begin = time.perf_counter()
    asyncio.run(pages((host, int(port))) if what == "pages" else many((host, int(port)), int(sys.argv[4])))
    assert server.poll() is None, "it ended"
    if what == "pages":
        writer.ended = True
        print(f"{writer.written} writes meanwhile")
    print(f"{time.perf_counter() - begin:.0f} s; peak {memory(server.pid, 'VmHWM'):.0f} MiB")
finally:
    server.terminate()
