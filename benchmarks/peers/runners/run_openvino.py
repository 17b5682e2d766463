"""OpenVINO GenAI in the race: PACKAGE THREADS NEW_TOKENS.

A second question about the same picture goes on with the chat, for which it keeps the most.
"""

from __future__ import annotations

import sys

import numpy as np
import openvino as ov
import openvino_genai as genai
from PIL import Image

from serve import Clock, serve


class Ticks(genai.StreamerBase):
    """A streamer of ids: text would be held back until it decodes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def write(self, ids):
        for _ in [ids] if isinstance(ids, int) else ids:
            self.clock.tick()
        return genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


def main(package: str, threads: str, new_tokens: str) -> None:
    def open_model():
        pipe = genai.VLMPipeline(package, "CPU", INFERENCE_NUM_THREADS=int(threads))
        settings = pipe.get_generation_config()
        settings.do_sample = False
        settings.max_new_tokens = settings.min_new_tokens = int(new_tokens)
        settings.ignore_eos = True
        settings.stop_token_ids = set()
        chat = genai.ChatHistory()

        def answer(picture: str, question: str, first: bool):
            nonlocal chat
            clock = Clock()
            extra = {}
            if first:
                chat = genai.ChatHistory()  # the object knows the pictures of its messages
                pixels = np.asarray(Image.open(picture).convert("RGB"))[None]
                extra["images"] = [ov.Tensor(pixels)]
            chat.append({"role": "user", "content": question})
            said = pipe.generate(chat, generation_config=settings, streamer=Ticks(clock), **extra)
            chat.append({"role": "assistant", "content": said.texts[0]})
            metrics = said.perf_metrics
            return clock.answer(
                encode=metrics.get_prepare_embeddings_duration().mean / 1e3,
                prompt_tokens=metrics.get_num_input_tokens(),
            )

        return answer

    serve(open_model)


main(*sys.argv[1:])
