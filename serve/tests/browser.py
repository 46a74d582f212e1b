"""The site in a headless Chromium: pages load, filter, sort and follow links; nothing is wider than its window, nothing fails in the console.

    python3 serve/tests/browser.py LORAFAB STORE DIR [CHROMIUM]     # screenshots of every page go to DIR

Only the standard library: the browser is driven through its debugging pipe.
"""
import base64, itertools, json, os, pathlib, subprocess, sys, tempfile, time

WIDTHS = {1400: 900, 800: 1000, 390: 844}

# Words of pictures that reach out of them.
CUT = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const r = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => {
    const b = t.getBoundingClientRect();
    return b.width > 0 && (b.left < r.left - 2 || b.right > r.right + 2 || b.top < r.top - 2 || b.bottom > r.bottom + 2);
  }).map(t => t.textContent);
})"""


class Browser:
    """A page of a headless Chromium."""

    def __init__(self, program):
        to_read, to_write = os.pipe(), os.pipe()
        os.set_inheritable(to_read[0], True), os.set_inheritable(to_write[1], True)

        def place():
            # The browser reads what it is told from descriptor 3 and answers on 4.
            read, write = os.dup(to_read[0]), os.dup(to_write[1])
            os.dup2(read, 3), os.dup2(write, 4)

        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run"]
        self.process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=place, close_fds=False, stderr=subprocess.DEVNULL)
        os.close(to_read[0]), os.close(to_write[1])
        self.out, self.input = os.fdopen(to_read[1], "wb", 0), os.fdopen(to_write[0], "rb", 0)
        self.numbers, self.buffer, self.events, self.session = itertools.count(1), b"", [], None
        target = next(t for t in self.do("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.buffer:
            part = self.input.read(1 << 16)
            if not part:
                raise RuntimeError("the browser ended")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def do(self, method, **parameters):
        number = next(self.numbers)
        request = {"id": number, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        self.out.write(json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def until(self, method):
        while True:
            for i, event in enumerate(self.events):
                if event.get("method") == method:
                    return self.events.pop(i)
            self.events.append(self.message())

    def run(self, script):
        result = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, address):
        self.events = [e for e in self.events if e.get("method") != "Page.loadEventFired"]
        self.do("Page.navigate", url=address)
        self.until("Page.loadEventFired")

    def leave(self, script):
        """What a script does leads to another page."""
        self.events = [e for e in self.events if e.get("method") != "Page.loadEventFired"]
        self.run(script)
        self.until("Page.loadEventFired")

    def errors(self):
        """What went wrong in the console since the last time."""
        bad = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                bad.append(what["exceptionDetails"].get("text"))
            if method == "Log.entryAdded" and what["entry"]["level"] == "error":
                # Browsers ask for a picture that a site need not have.
                if not what["entry"].get("url", "").endswith("/favicon.ico"):
                    bad.append(what["entry"]["text"])
        self.events = [e for e in self.events if e.get("method") not in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return bad

    def picture(self, file):
        file.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]))

    def end(self):
        self.process.terminate()
        self.process.wait()


def check(what, truth):
    if not truth:
        raise SystemExit(f"failed: {what}")


def main():
    lorafab, store, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    chromium = sys.argv[4] if len(sys.argv) > 4 else "chromium"
    folder.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([lorafab, "--store", store, "--quiet", "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    site = server.stdout.readline().strip()
    browser = Browser(chromium)
    try:
        # As a person goes through it.
        browser.open(site)
        check("the front page lists adapters", browser.run("location.pathname") == "/adapters")
        rows = browser.run("document.querySelectorAll('tbody tr').length")
        check("there are adapters", rows > 0)
        browser.leave("document.querySelector('input[name=where]').value = 'family = topic'; document.querySelector('form').submit()")
        families = browser.run("[...new Set([...document.querySelectorAll('tbody tr td:nth-child(2)')].map(c => c.textContent))]")
        check(f"a filter leaves one family, here {families}", families == ["topic"])
        browser.leave("[...document.querySelectorAll('th a')].find(a => a.textContent == 'behaviour').click()")
        names = browser.run("[...document.querySelectorAll('tbody tr td:first-child')].map(c => c.textContent)")
        check("a click on a head sorts", names == sorted(names))
        browser.leave("document.querySelector('tbody tr td a').click()")
        check("an adapter has a page", browser.run("location.pathname").startswith("/adapter/"))
        check("it is that adapter's", browser.run("document.querySelector('h1').textContent") == names[0])
        adapter = browser.run("location.pathname")
        pages = {"adapters": "/adapters", "adapter": adapter, "queue": "/queue", "runs": "/runs"}
        browser.open(site + "/queue")
        for _ in range(100):
            if browser.run("document.getElementById('live').textContent").startswith("live"):
                break
            time.sleep(0.1)
        check("the queue's page is live", browser.run("document.getElementById('live').textContent").startswith("live"))
        browser.open(site + "/runs")
        check("there is a run", browser.run("document.querySelectorAll('tbody a').length"))
        browser.leave("document.querySelector('tbody a').click()")
        run = browser.run("location.pathname")
        browser.leave("document.querySelector('a[href$=items]').click()")
        check("a run has answers", browser.run("document.querySelectorAll('tbody tr').length") > 0)
        browser.leave("document.querySelector('input[name=wrong]').checked = true; document.querySelector('form').submit()")
        marks = browser.run("[...new Set([...document.querySelectorAll('tbody tr td:last-child')].map(c => c.textContent))]")
        check(f"misses only, here {marks}", marks in (["wrong"], []))
        pages |= {"run": run, "report": run + "/report", "items": run + "/items"}
        if marks:
            browser.leave("document.querySelector('tbody td a').click()")
            pages["answers"] = browser.run("location.pathname + location.search")
        # Every page at every width, light and dark.
        wrong = browser.errors()
        for name, path in pages.items():
            for width, height in WIDTHS.items():
                browser.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
                for scheme in ("light", "dark"):
                    browser.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                    browser.open(site + path)
                    for state in ("as it opens", "all unfolded"):
                        wide = browser.run("document.documentElement.scrollWidth - innerWidth")
                        if wide > 0:
                            wrong.append(f"{path} at {width}, {state}: {wide} pixels wider than the window")
                        if cut := browser.run(CUT):
                            wrong.append(f"{path} at {width}, {state}: outside its picture: {cut}")
                        if state == "as it opens":
                            browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
                    browser.run("document.querySelectorAll('details').forEach(d => d.open = false)")
                    wrong += [f"{path} at {width}, {scheme}: {e}" for e in browser.errors()]
                    browser.picture(folder / f"{name}-{width}-{scheme}.png")
        check("\n".join(wrong), not wrong)
        print(f"{len(pages)} pages at {len(WIDTHS)} widths, light and dark: {folder}")
    finally:
        browser.end()
        server.terminate()
        server.wait()


main()
