"""llama.cpp's own converter on a checkpoint with a made tokenizer: SOURCE ARGUMENTS...

It knows a tokenizer by what it makes of one text, and a made one makes something else of it: here
it is told that this is Qwen2's, which its pattern and its special tokens are. Ids without a word
become ordinary ones, as all are in the published tokenizer: unused ones would print as nothing,
and a token that prints nothing cannot be timed.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(source: str, *arguments: str) -> None:
    sys.path.insert(0, source)
    sys.path.insert(1, str(Path(source) / "gguf-py"))
    import gguf
    from conversion.base import TextModel

    published = TextModel.get_vocab_base

    def get_vocab_base(self):
        tokens, kinds, pre = published(self)
        ordinary = gguf.TokenType.NORMAL
        return tokens, [ordinary if k == gguf.TokenType.UNUSED else k for k in kinds], pre

    TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
    TextModel.get_vocab_base = get_vocab_base
    converter = str(Path(source) / "convert_hf_to_gguf.py")
    sys.argv = [converter, *arguments]
    runpy.run_path(converter, run_name="__main__")


main(*sys.argv[1:])
