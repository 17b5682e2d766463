"""transformers in the race: CHECKPOINT THREADS NEW_TOKENS. bfloat16, scaled dot product attention.

The processor is put together by hand: the whole one wants torchvision, for videos.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2VLForConditionalGeneration

from serve import Clock, serve

PLACE = "<|image_pad|>"


class Ticks:
    """A streamer that is given the prompt first, then every id."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.prompt = clock, True

    def put(self, ids) -> None:
        if not self.prompt:
            self.clock.tick()
        self.prompt = False

    def end(self) -> None:
        pass


def main(checkpoint: str, threads: str, new_tokens: str) -> None:
    torch.set_num_threads(int(threads))

    def open_model():
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        images = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")
        template = json.loads((Path(checkpoint) / "chat_template.json").read_text())
        spans: list[float] = []
        model.model.visual.register_forward_pre_hook(lambda *_: spans.append(-time.perf_counter()))
        model.model.visual.register_forward_hook(lambda *_: spans.append(time.perf_counter()))

        @torch.inference_mode()
        def answer(picture: str, question: str, first: bool):
            clock = Clock()
            spans.clear()
            pixels = images([Image.open(picture).convert("RGB")], return_tensors="pt")
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template["chat_template"],
                tokenize=False,
                add_generation_prompt=True,
            )
            places = int(pixels["image_grid_thw"].prod()) // images.merge_size**2
            inputs = tokenizer(text.replace(PLACE, PLACE * places), return_tensors="pt")
            ids = inputs["input_ids"]
            kinds = (ids == model.config.image_token_id).int()
            model.generate(
                **inputs,
                **pixels,
                mm_token_type_ids=kinds,
                streamer=Ticks(clock),
                do_sample=False,
                min_new_tokens=int(new_tokens),
                max_new_tokens=int(new_tokens),
            )
            return clock.answer(encode=sum(spans), prompt_tokens=ids.shape[1])

        return answer

    serve(open_model)


main(*sys.argv[1:])
