"""A slow and obvious Llama in plain torch, in any precision: the second opinion on transformers.

transformers casts norms, rotary angles and softmax to float32 whatever the model's dtype, so its float64 run is not
one. This one computes everything in the dtype of its parameters.
"""

import torch
import torch.nn.functional as F


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary positions on [heads, T, head_dim]; element i is paired with element i + head_dim / 2."""
    t, half = x.shape[1], x.shape[2] // 2
    frequencies = theta ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(t, dtype=x.dtype)[:, None] * frequencies
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def logits(parameters, config, tokens):
    """Logits [T, V] of one token sequence; `parameters` is keyed by the Hugging Face names."""
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    theta, eps = config.rope_parameters["rope_theta"], config.rms_norm_eps
    t = len(tokens)
    x = parameters["model.embed_tokens.weight"][torch.tensor(tokens)]
    future = torch.ones(t, t, dtype=torch.bool).triu(1)
    for layer in range(config.num_hidden_layers):
        p = {name: parameters[f"model.layers.{layer}.{name}.weight"] for name in LAYER_WEIGHTS}
        h = rms_norm(x, p["input_layernorm"], eps)
        q = rotate((h @ p["self_attn.q_proj"].T).view(t, heads, width).transpose(0, 1), theta)
        k = rotate((h @ p["self_attn.k_proj"].T).view(t, kv_heads, width).transpose(0, 1), theta)
        v = (h @ p["self_attn.v_proj"].T).view(t, kv_heads, width).transpose(0, 1)
        mixed = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = (q[head] @ k[shared].T) / width**0.5
            mixed.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v[shared])
        x = x + torch.cat(mixed, -1) @ p["self_attn.o_proj"].T
        h = rms_norm(x, p["post_attention_layernorm"], eps)
        gated = F.silu(h @ p["mlp.gate_proj"].T) * (h @ p["mlp.up_proj"].T)
        x = x + gated @ p["mlp.down_proj"].T
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    return rms_norm(x, parameters["model.norm.weight"], eps) @ parameters[head].T


LAYER_WEIGHTS = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
