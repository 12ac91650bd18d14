"""Types `make run` as a newcomer does: it must serve, sign in, and stop without a trace."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

PATIENCE_SECONDS = 600
STOP_SECONDS = 30


def main() -> None:
    signal.alarm(PATIENCE_SECONDS)  # whatever it waits for
    port = free_port()
    environment = {**os.environ, "BURSAR_PORT": str(port)}
    process = subprocess.Popen(
        ["make", "run"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        password, token = read_sign_in(process)
        base = f"http://127.0.0.1:{port}"
        look(f"{base}/ready", "ready")
        look(f"{base}/docs", "swagger-ui")
        look(f"{base}/api/v1/admin/settings", "cache_ttl_seconds", token)
        look(f"{base}/api/v1/admin/users", "carl@example.com", sign_in(base, password))
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
        nothing_left(process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    print("make run: serves, signs in, stops")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def read_sign_in(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it prints while it starts: the demo password, and last the token for the docs."""
    password = ""
    for line in process.stderr or ():
        sys.stdout.write(line if len(line) < 120 else line[:60] + "…\n")
        if found := re.search(r"with the password (\S+)", line):
            password = found[1]
        if found := re.search(r"^\s+(ey\S+)", line):
            return password, found[1]
    raise SystemExit("make run did not come to its demo sign-ins")


def sign_in(base: str, password: str) -> str:
    body = json.dumps({"email": "olivia@ternandtide.example", "password": password}).encode()
    request = urllib.request.Request(
        f"{base}/api/v1/admin/auth/login", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        token: str = json.load(answer)["accessToken"]
    return token


def look(url: str, expected: str, token: str | None = None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    deadline = time.monotonic() + 30
    while True:
        try:
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read().decode()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url}: {error}") from None
            time.sleep(0.1)
    if expected not in text:
        raise SystemExit(f"{url} does not say {expected!r}: {text[:300]}")
    print(f"{url}: {json.loads(text).get('status', 'fine') if text[0] == '{' else 'fine'}")


def nothing_left(group: int) -> None:
    rows = subprocess.run(["ps", "-eo", "sess,args"], capture_output=True, text=True, check=False)
    left = [row for row in rows.stdout.splitlines() if row.split()[:1] == [str(group)]]
    if left:
        raise SystemExit(f"still running after the stop: {left}")


if __name__ == "__main__":
    main()
