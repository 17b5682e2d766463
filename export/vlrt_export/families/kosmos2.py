"""Kosmos-2: https://arxiv.org/abs/2306.14824, microsoft/kosmos-2-patch14-224.

vision_encoder: CLIP, every row normed and scaled to length one.  projector: 64 learned queries
attend to those rows and to themselves -> 64 rows of the decoder's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx_ir as ir

from vlrt_export.checkpoint import Checkpoint
from vlrt_export.config import image_config, image_parameters, square_parameters
from vlrt_export.families import Family, Runtime
from vlrt_export.families.kosmos2_config import Config
from vlrt_export.families.kosmos2_decoder import TextDecoder
from vlrt_export.layers.base import FLOAT, Layer, contrib
from vlrt_export.layers.basic import LayerNorm
from vlrt_export.layers.linear import Linear
from vlrt_export.layers.vit import ViT
from vlrt_export.weights import Weights
from vlrt_runtime.errors import CheckpointError

SMALLEST_NORM = 1e-12
# There is no chat: the model goes on from where the prompt ends.
TEMPLATE = """\
{%- if messages | length != 1 or messages[0].role != 'user' -%}
{{- raise_exception('Kosmos-2 knows no chat, only one user message whose text it continues') -}}
{%- endif -%}
{%- for part in messages[0].content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
"""


class VisionEncoder(Layer):
    """One picture to 257 rows of length one: the class token's and the patches'."""

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__()
        self.config, self.dtype = config.vision, weights.dtype
        weights = weights.at("vision_model.model")
        hidden, eps = self.config.hidden_size, self.config.layer_norm_eps
        self.vit = ViT(weights, self.config)
        self.norm = LayerNorm(weights.wide, "post_layernorm", hidden, eps)

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its output."""
        op, side = builder.op, self.config.image_size
        shape = [1, self.config.num_channels, side, side]
        x = self.norm(op, self.vit(op, builder.input("pixel_values", self.dtype, shape)))
        length = op.Sqrt(op.ReduceSum(op.Mul(x, x), [-1], keepdims=1))
        yield "image_features", op.Div(x, op.Max(length, op.Constant(value_float=SMALLEST_NORM)))


class Resampler(Layer):
    """Learned queries attend to rows of the same width, and to themselves."""

    def __init__(self, weights: Weights, rows: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        tensor = weights.take("latent_query", (rows, hidden))
        self.latents = self.plain(weights, [tensor], [rows, hidden], rows)
        weights = weights.at("x_attn")
        self.query = Linear(weights, "q_proj", hidden, hidden, bias=True)
        self.key_value = Linear(weights, ["k_proj", "v_proj"], hidden, [hidden, hidden], bias=True)
        self.output = Linear(weights, "out_proj", hidden, hidden, bias=True)

    def forward(self, op: Any, x: Any) -> Any:
        """X [1, n, hidden] -> [1, rows, hidden]."""
        latents = op.Unsqueeze(self.latents, [0])
        q = self.query(op, latents)
        both = self.key_value(op, op.Concat(x, latents, axis=1))
        k, v = op.Split(both, axis=-1, num_outputs=2, _outputs=2)
        rows = contrib(op, "MultiHeadAttention", q, k, v, outputs=[q], num_heads=self.heads)
        return self.output(op, rows)


class Projector(Layer):
    """Features to the decoder's width, and those to as many rows as there are queries."""

    def __init__(self, weights: Weights, config: Config) -> None:
        super().__init__()
        self.vision, weights = config.vision, weights.at("image_to_text_projection")
        hidden, heads = config.decoder.hidden_size, config.decoder.num_attention_heads
        self.dense = Linear(weights, "dense", self.vision.hidden_size, hidden, bias=True)
        self.resampler = Resampler(weights, config.latent_query_num, hidden, heads)

    def trace(self, builder: Any) -> Iterable[tuple[str, ir.Value]]:
        """Declares the graph's input and yields its output."""
        op, shape = builder.op, [1, self.vision.tokens, self.vision.hidden_size]
        x = builder.input("image_features", FLOAT, shape)
        yield "image_embeds", self.resampler(op, self.dense(op, x))


def decoder(weights: Weights, config: Config) -> TextDecoder:
    """The language model."""
    return TextDecoder(weights.at("text_model.model"), weights, config.decoder)


def canonical(name: str) -> str | None:
    """As published; what is computed and not learned is left out."""
    if name.endswith(("position_ids", "embed_positions.weights")):
        return None
    return name.removeprefix("text_model.") if name.startswith("text_model.lm_head") else name


def runtime(checkpoint: Checkpoint, config: Config) -> Runtime:
    """Token ids, the picture processor's parameters and the sinusoids', for the manifest.

    Raises:
        CheckpointError: tokenizer.json lacks a tag.
    """
    text: Mapping[str, Any] = checkpoint.config.get("text_config") or {}
    stop = text.get("eos_token_id", 2)
    entries = checkpoint.optional_json("tokenizer.json").get("added_tokens") or []
    added = {entry["content"]: entry["id"] for entry in entries}
    named = {"bos": "<s>", "image": "<image>", "image_end": "</image>"}
    missing = [tag for tag in (*named.values(), "<unk>") if tag not in added]
    if missing:
        raise CheckpointError(
            f"tokenizer.json: added_tokens lacks {', '.join(missing)}; save it again with "
            "transformers: AutoProcessor.from_pretrained(folder).save_pretrained(folder)"
        )
    tokens = {name: added[tag] for name, tag in named.items()}
    side = config.vision.image_size
    # The published file also has a `size`, which this key overrules.
    squashed = image_config(checkpoint).get("use_square_size")
    image = (
        image_parameters(checkpoint) | {"size": side}
        if squashed
        else square_parameters(checkpoint, side)
    )
    hidden, clean = config.decoder.hidden_size, "clean_up_tokenization_spaces"
    return Runtime(
        tokens=tokens | {"first_slot": added["<unk>"] + 1},
        image=image | {"patch_size": config.vision.patch_size, "tokens": config.latent_query_num},
        rope={
            "width": hidden,
            "padding_id": text.get("pad_token_id", 1),
            "embed_scale": hidden**0.5 if text.get("scale_embedding", True) else 1.0,
        },
        text={"clean_up": bool(checkpoint.optional_json("tokenizer_config.json").get(clean))},
        max_context=text.get("max_position_embeddings", 2048),
        stop_ids=tuple(stop) if isinstance(stop, list) else (stop,),
    )


FAMILY = Family(
    name="kosmos2",
    canonical=canonical,
    config=Config.read,
    graphs={"vision_encoder": VisionEncoder, "projector": Projector, "decoder": decoder},
    embedding="text_model.model.embed_tokens.weight",
    runtime=runtime,
    chat_template=TEMPLATE,
)
