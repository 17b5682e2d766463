"""vlrt in the race: PACKAGE THREADS NEW_TOKENS."""

from __future__ import annotations

import sys

import vlrt
from serve import serve


def main(package: str, threads: str, new_tokens: str) -> None:
    def open_model():
        model = vlrt.load(package, device="cpu", threads=int(threads))

        def answer(picture: str, question: str, first: bool):
            said = model.generate(question, images=[picture], max_new_tokens=int(new_tokens))
            t, tokens = said.timings, len(said.token_ids)
            return {
                "encode": (t.encode + t.project) / 1e3,
                "ttft": t.ttft / 1e3,
                "decode": t.tpot * (tokens - 1) / 1e3,
                "tokens": tokens,
                "prompt_tokens": said.prompt_tokens,
            }

        return answer

    serve(open_model)


main(*sys.argv[1:])
