"""A training state -> a Qwen2-VL checkpoint folder as published ones are laid out, in float16.

python -m benchmarks.demo_model.export runs/joint/state.pt vlrt/demo/checkpoint
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.demo_model import model as M
from benchmarks.demo_model import tokenizer as tok
from benchmarks.demo_model.batches import MEAN, STD
from benchmarks.demo_model.scenes import TOKEN

MIN_TOKENS, MAX_TOKENS = 16, 49  # image tokens of the pictures it was trained on
# Turns as Qwen2-VL writes them, without its system line: the model never saw one in training.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_checkpoint(state: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tok.build()
    ids = {s: tokenizer.token_to_id(s) for s in tok.SPECIAL}
    save_file(_published(state["model"]), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    _dump(folder / "config.json", _config(ids, tokenizer.get_vocab_size()))
    _dump(folder / "tokenizer_config.json", _tokenizer_config(ids))
    _dump(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _dump(folder / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
        "min_pixels": MIN_TOKENS * TOKEN**2, "max_pixels": MAX_TOKENS * TOKEN**2,
        "patch_size": M.PATCH, "temporal_patch_size": M.TEMPORAL, "merge_size": M.MERGE,
        "image_mean": [round(float(v), 8) for v in MEAN],
        "image_std": [round(float(v), 8) for v in STD],
    })  # fmt: skip
    _dump(folder / "generation_config.json", {
        "do_sample": False, "repetition_penalty": 1.0, "pad_token_id": ids[tok.END_OF_TEXT],
        "eos_token_id": [ids[tok.TURN_END], ids[tok.END_OF_TEXT]],
    })  # fmt: skip


def _published(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as on the hub (`visual.*`, `model.*`, head tied to the embedding), float16."""
    out = {}
    for name, tensor in weights.items():
        if name == "lm_head.weight":
            continue
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        out[name] = tensor.half().contiguous()
    return out


def _config(ids: dict[str, int], vocab_size: int) -> dict:
    """Flat, with the keys of Qwen2-VL's published config.json."""
    text = M.TEXT
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids[tok.END_OF_TEXT],
        "eos_token_id": ids[tok.TURN_END],
        "vision_start_token_id": ids[tok.VISION_START],
        "vision_end_token_id": ids[tok.VISION_END],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids[tok.IMAGE],
        "video_token_id": ids[tok.VIDEO],
        **text,
        "initializer_range": 0.02,
        "max_window_layers": text["num_hidden_layers"],
        "model_type": "qwen2_vl",
        "rope_theta": M.ROPE_THETA,
        "rope_scaling": {"type": "mrope", "mrope_section": M.MROPE_SECTION},
        "sliding_window": text["max_position_embeddings"],
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "use_cache": True,
        "vision_config": M.VISION | {
            "hidden_size": text["hidden_size"], "in_chans": 3, "spatial_patch_size": M.PATCH,
        },
        "vocab_size": vocab_size,
    }  # fmt: skip


def _tokenizer_config(ids: dict[str, int]) -> dict:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "added_tokens_decoder": {
            str(i): {"content": s, **flags, "special": True} for s, i in ids.items()
        },
        "additional_special_tokens": [s for s in tok.SPECIAL if s != tok.END_OF_TEXT],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": tok.TURN_END,
        "errors": "replace",
        "model_max_length": M.TEXT["max_position_embeddings"],
        "pad_token": tok.END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _dump(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write_checkpoint(torch.load(args.state), args.folder)


if __name__ == "__main__":
    main()
