"""What else a user would install, at the same size: models of 1,024 tokens that train and sample with their own code.

They model one token of 512 colours a pixel (Hugging Face's ImageGPT was made for that), which is easier than the
three sub-pixels that ours models, and they get no data but random tokens: only their speed is compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

COLOURS = 512
TOKENS = 32 * 32
START = TOKENS // 2  # where sampling is timed: the middle of the image, the average length of what came before


@dataclass
class Peer:
    name: str
    model: nn.Module
    loss: Callable[[Tensor], Tensor]  # tokens (b, l) -> mean nats
    sample: Callable[[Tensor, int], object]  # tokens that are there (b, l), how many more to draw


def _next_token(logits: Tensor, tokens: Tensor) -> Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def _local_attention(width: int, depth: int, heads: int, block: int) -> Peer:
    from local_attention import LocalTransformer

    model = LocalTransformer(
        num_tokens=COLOURS, max_seq_len=TOKENS, dim=width, depth=depth, causal=True, local_attn_window_size=block,
        dim_head=width // heads, heads=heads, num_residual_streams=1,
    )  # fmt: skip
    return Peer("local-attention", model, lambda x: _next_token(model(x), x), lambda x, n: model.generate(x, n))


def _x_transformers(width: int, depth: int, heads: int, block: int) -> Peer:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    decoder = Decoder(dim=width, depth=depth, heads=heads, attn_dim_head=width // heads, attn_flash=True)
    model = TransformerWrapper(num_tokens=COLOURS, max_seq_len=TOKENS, attn_layers=decoder)
    sampler = AutoregressiveWrapper(model)
    return Peer(
        "x-transformers", model, lambda x: _next_token(model(x), x), lambda x, n: sampler.generate(x, n, cache_kv=True)
    )


def _imagegpt(width: int, depth: int, heads: int, block: int) -> Peer:
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling, logging

    logging.set_verbosity_error()
    config = ImageGPTConfig(
        vocab_size=COLOURS + 1, n_positions=TOKENS, n_embd=width, n_layer=depth, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = ImageGPTForCausalImageModeling(config)

    def sample(tokens: Tensor, count: int) -> object:
        model.eval()
        return model.generate(tokens, min_new_tokens=count, max_new_tokens=count, do_sample=True, use_cache=True)

    return Peer("ImageGPT (transformers)", model, lambda x: _next_token(model(x).logits, x), sample)


# of a width, depth, number of heads and block of local attention; feed-forward layers are four times as wide
PEERS: tuple[Callable[[int, int, int, int], Peer], ...] = (_local_attention, _x_transformers, _imagegpt)
warnings.filterwarnings("ignore", module="local_attention|x_transformers|transformers|einx|torch")
