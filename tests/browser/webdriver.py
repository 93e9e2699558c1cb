"""A browser, driven over the W3C's WebDriver protocol by the standard library alone: nothing is installed for it."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Tab": "\ue004", "Escape": "\ue00c", "Left": "\ue012", "Right": "\ue014", "Home": "\ue011", "End": "\ue010"}
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def installed():
    """The paths of Chromium and its driver, or None."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """Chromium with a profile of its own, which goes when it is closed."""

    def __init__(self, chromium, driver):
        self.profile = tempfile.TemporaryDirectory(prefix="topspin-browser-")
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.root = f"http://127.0.0.1:{line.rstrip().rstrip('.').rsplit(' ', 1)[1]}"
                break
        else:
            raise RuntimeError(f"`{driver}` did not start")
        options = {"binary": chromium, "args": [*SWITCHES, f"--user-data-dir={self.profile.name}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.root += f"/session/{session['sessionId']}"
        # Chromium's own first page asks for much; what is logged from here on is of the pages that are opened.
        self.call("POST", "/url", {"url": "about:blank"})
        self.log("browser")
        self.log("performance")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait()
            self.profile.cleanup()

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data, {"Content-Type": "application/json"}, method=method)
        # No proxy stands between this machine and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:600]}") from None

    def open(self, path):
        self.call("POST", "/url", {"url": f"file://{path}"})

    def js(self, script, *args):
        """What the body of a function returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def cdp(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self, kind):
        return self.call("POST", "/se/log", {"type": kind})

    def wait(self, script, what, seconds=60):
        """Until a script returns something true."""
        end = time.monotonic() + seconds
        while not (found := self.js(script)):
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain for {what}")
            time.sleep(0.05)
        return found

    def press(self, *keys):
        """Keys where the focus is."""
        actions = []
        for key in keys:
            value = KEYS.get(key, key)
            actions += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def click(self, selector):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[ELEMENT]}/click", {})

    def choose(self, label, value):
        """Chooses in the visible select of that label, as a person would."""
        script = """
            const labels = [...document.querySelectorAll("label")].filter((label) => label.offsetParent);
            const box = labels.find((label) => label.firstChild.textContent === arguments[0]).querySelector("select");
            box.value = arguments[1];
            box.dispatchEvent(new Event("change"));
            return box.value;"""
        assert self.js(script, label, value) == value, f"{label} has no choice {value}"

    def size(self, width, height):
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def scheme(self, scheme, media="screen"):
        # A page that glides to its places cannot be clicked meanwhile.
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("GET", "/screenshot")))
