"""`vlrt serve` under load: many clients on loopback, queueing, fairness and memory over time.

    python benchmarks/serve_load.py demo --clients 8 --requests 2000

Every client asks as soon as it is answered; where the line is full (429) it waits as long as it was
told to and asks again. Every question comes with the picture. Prints private memory after every
tenth of the requests, a table of latencies and of each client's share, and one JSON line last.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

from vlrt.demo import PICTURE

QUESTIONS = ("Describe the picture.", "How many things are there?", "Where is the black star?")


@dataclass
class Load:
    """What all clients share; `lock` guards it."""

    url: str
    left: int
    process: psutil.Process
    lock: threading.Lock = field(default_factory=threading.Lock)
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    private: list[int] = field(default_factory=list)
    answered: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    wrong: int = 0

    def client(self, number: int, every: int, expected: dict[str, str]) -> None:
        while True:
            with self.lock:
                if self.left == 0:
                    return
                self.left -= 1
                turn = self.left
            question = QUESTIONS[turn % len(QUESTIONS)]
            started = time.perf_counter()
            answer = self.ask(question)
            with self.lock:
                self.seconds.append(time.perf_counter() - started)
                self.queued.append(answer["vlrt"]["queue_ms"] / 1e3)
                self.answered[number] += 1
                text = answer["choices"][0]["message"]["content"]
                self.wrong += expected.setdefault(question, text) != text
                if turn % every == 0:
                    self.private.append(self.process.memory_full_info().uss)
                    print(f"{turn:6} left, {self.private[-1] / 1e6:.1f} MB private", flush=True)

    def ask(self, question: str) -> dict[str, Any]:
        url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        body = {"model": "demo", "messages": [{"role": "user", "content": content}]}
        while True:
            request = urllib.request.Request(
                f"{self.url}/v1/chat/completions",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=120) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                if error.code != 429:
                    raise
                with self.lock:
                    self.refused += 1
                time.sleep(float(error.headers["Retry-After"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", default="demo")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--queue", type=int, default=16, help="that may wait (default: 16)")
    args = parser.parse_args()
    command = [sys.executable, "-m", "vlrt", "serve", args.package, "--port", "0"]
    command += ["--queue", str(args.queue)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        lines = iter(server.stdout.readline, "")
        url = next(m[0] for line in lines if (m := re.search(r"http://[\w.:\[\]]+\d", line)))
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        wait_for(url)
        load = Load(url, args.requests, psutil.Process(server.pid))
        every, expected = max(1, args.requests // 10), dict[str, str]()
        started = time.perf_counter()
        threads = [
            threading.Thread(target=load.client, args=(n, every, expected))
            for n in range(args.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report(load, time.perf_counter() - started)
    finally:
        server.send_signal(signal.SIGINT if os.name != "nt" else signal.SIGTERM)
        server.wait(30)


def wait_for(url: str) -> None:
    """Until the server listens, which it does just after it has told its address."""
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=10).close()
            return
        except urllib.error.URLError:  # noqa: PERF203
            time.sleep(0.05)
    raise SystemExit(f"{url}: nobody answers")


def report(load: Load, seconds: float) -> None:
    done = len(load.seconds)
    assert done == sum(load.answered.values())
    cut = statistics.quantiles(load.seconds, n=100)
    waits = statistics.quantiles(load.queued, n=100)
    shares = sorted(load.answered.values())
    result = {
        "requests": done,
        "clients": len(load.answered),
        "requests_per_s": done / seconds,
        "latency_p50_s": cut[49],
        "latency_p99_s": cut[98],
        "queue_p50_s": waits[49],
        "queue_p99_s": waits[98],
        "refused": load.refused,
        "wrong": load.wrong,
        "fewest_answers": shares[0],
        "most_answers": shares[-1],
        "private_mb": [round(size / 1e6, 1) for size in load.private],
    }
    for name, value in result.items():
        print(f"{name:16}{value:.4g}" if isinstance(value, float) else f"{name:16}{value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
