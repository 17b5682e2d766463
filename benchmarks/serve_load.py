"""`vlrt serve` under load: many clients on loopback, queueing, fairness and memory over time.

    python benchmarks/serve_load.py demo --clients 24 --requests 3000

Every client asks as soon as it is answered, each time with the picture; where the line is full
(429) it waits as long as it was told to and asks again. Every other answer is streamed, and every
tenth client's question is given up after its first piece. Prints private memory after every tenth
of the requests, a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from vlrt.demo import PICTURE

QUESTIONS = ("Describe the picture.", "How many things are there?", "Where is the black star?")
GIVEN_UP = 10  # one in so many


@dataclass
class Load:
    """What all clients share; `lock` guards it."""

    port: int
    total: int
    process: psutil.Process
    lock: threading.Lock = field(default_factory=threading.Lock)
    taken: int = 0
    seconds: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    private: list[int] = field(default_factory=list)
    served: Counter[int] = field(default_factory=Counter)
    said: dict[str, set[str]] = field(default_factory=dict)
    refused: int = 0
    given_up: int = 0

    def client(self, number: int) -> None:
        """Asks until all questions are taken."""
        while True:
            with self.lock:
                turn, self.taken = self.taken, self.taken + 1
                if turn >= self.total:
                    return
                if turn % max(1, self.total // 10) == 0:
                    self.private.append(self.process.memory_full_info().uss)
                    print(f"{turn:6} asked, {self.private[-1] / 1e6:.1f} MB private", flush=True)
            question = QUESTIONS[turn % len(QUESTIONS)]
            started = time.perf_counter()
            answer = self.ask(question, stream=turn % 2 == 0, give_up=turn % GIVEN_UP == 0)
            with self.lock:
                self.served[number] += 1
                if answer is None:
                    self.given_up += 1
                    continue
                self.seconds.append(time.perf_counter() - started)
                self.queued.append(answer["queue_ms"] / 1e3)
                self.said.setdefault(question, set()).add(answer["text"])

    def ask(self, question: str, *, stream: bool, give_up: bool) -> dict[str, Any] | None:
        """What vlrt tells of an answer; None of one that was given up."""
        url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        body = {"messages": [{"role": "user", "content": content}], "stream": stream}
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            reply = connection.getresponse()
            try:
                if reply.status == 429:
                    wait = float(reply.headers["retry-after-ms"]) / 1e3
                elif reply.status != 200:
                    raise RuntimeError(f"status {reply.status}: {reply.read()!r}")
                elif not stream:
                    return json.load(reply)["vlrt"]
                elif give_up:
                    reply.readline()
                    return None
                else:
                    return self.last(reply)
            finally:
                connection.close()
            with self.lock:
                self.refused += 1
            time.sleep(wait)

    @staticmethod
    def last(reply: http.client.HTTPResponse) -> dict[str, Any]:
        """Of a stream: what its last chunk tells, which its pieces must agree with."""
        lines = [line[6:] for line in reply if line.startswith(b"data: {")]
        chunks = [json.loads(line) for line in lines]
        pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
        told = chunks[-1]["vlrt"]
        if "".join(pieces) != told["text"]:
            raise RuntimeError(f"pieces {pieces} are not {told['text']!r}")
        return told

    def report(self, seconds: float) -> dict[str, Any]:
        """Figures; `fairness` is Jain's index of the clients' shares, 1 where all are equal."""
        cut, waits = (statistics.quantiles(s, n=100) for s in (self.seconds, self.queued))
        shares = list(self.served.values())
        return {
            "requests": len(self.seconds) + self.given_up,
            "clients": len(shares),
            "requests_per_s": round((len(self.seconds) + self.given_up) / seconds, 1),
            "latency_p50_ms": round(cut[49] * 1e3),
            "latency_p99_ms": round(cut[98] * 1e3),
            "queue_p50_ms": round(waits[49] * 1e3),
            "queue_p99_ms": round(waits[98] * 1e3),
            "refused": self.refused,
            "given_up": self.given_up,
            "answers_per_question": max(map(len, self.said.values())),  # 1: always the same
            "share_least": min(shares),
            "share_most": max(shares),
            "fairness": round(sum(shares) ** 2 / (len(shares) * sum(s * s for s in shares)), 4),
            "private_mb": [round(size / 1e6, 1) for size in self.private],
        }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", default="demo")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--queue", type=int, default=16, help="that may wait (default: 16)")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "vlrt", "serve", args.package, "--port", "0"]
    command += ["--queue", str(args.queue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
            if found is None:
                raise SystemExit("the server did not start")
            load = Load(int(found[1]), args.requests, psutil.Process(server.pid))
            started = time.perf_counter()
            threads = [threading.Thread(target=load.client, args=(n,)) for n in range(args.clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - started
            load.private.append(load.process.memory_full_info().uss)
        finally:
            server.send_signal(signal.SIGTERM)
    figures = load.report(seconds)
    table = Table("figure", "value", title=f"{args.package}, at most {args.queue} wait")
    for name, value in figures.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(name.replace("_", " "), shown)
    Console(width=110).print(table)
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
