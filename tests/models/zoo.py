"""Small models of many kinds, with random weights, each with a batch and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module, int], Tensor]
BATCH, LENGTH, WIDTH, VOCABULARY = 2, 16, 32, 99


def generator(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + step)


def tokens(step: int, length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, length), generator=generator(step))


def images(step: int, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(BATCH, channels, size, size, generator=generator(step))


def hugging_face(name: str, config: str, inputs: Callable[[int], dict[str, Tensor]],
                 **sizes: Any) -> tuple[Callable[[], nn.Module], Loss]:
    """A model class of the transformers package with a tiny configuration."""

    def build() -> nn.Module:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**sizes)).train()

    def loss(model: nn.Module, step: int) -> Tensor:
        output = model(**inputs(step))
        found = getattr(output, "loss", None)
        if found is not None:
            return found
        return sum(t.float().square().mean() for t in output.values()
                   if isinstance(t, Tensor) and t.is_floating_point())

    return build, loss


def causal(step: int) -> dict[str, Tensor]:
    ids = tokens(step)
    return {"input_ids": ids, "labels": ids}


def classified(step: int) -> dict[str, Tensor]:
    return {"pixel_values": images(step), "labels": torch.tensor([step % 2, 1])}


def image_and_text(step: int) -> dict[str, Any]:
    return {"input_ids": tokens(step), "pixel_values": images(step), "return_loss": True}


def spectrum(step: int) -> dict[str, Tensor]:
    return {"input_features": torch.randn(BATCH, 16, 40, generator=generator(step)),
            "labels": tokens(step, 6)}


SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48}
LLAMA = {**SMALL, "vocab_size": VOCABULARY, "num_key_value_heads": 2,
         "max_position_embeddings": 64}

TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "gpt2": hugging_face("GPT2LMHeadModel", "GPT2Config", causal, n_embd=WIDTH, n_layer=2,
                         n_head=4, vocab_size=VOCABULARY, n_positions=64),
    "llama": hugging_face("LlamaForCausalLM", "LlamaConfig", causal, **LLAMA),
    "mistral": hugging_face("MistralForCausalLM", "MistralConfig", causal, **LLAMA,
                            sliding_window=8),
    "mixtral": hugging_face("MixtralForCausalLM", "MixtralConfig", causal, **LLAMA,
                            num_local_experts=4, num_experts_per_tok=2),
    "qwen2": hugging_face("Qwen2ForCausalLM", "Qwen2Config", causal, **LLAMA),
    "gemma": hugging_face("GemmaForCausalLM", "GemmaConfig", causal, **LLAMA, head_dim=8),
    "mamba": hugging_face("MambaForCausalLM", "MambaConfig", causal, hidden_size=WIDTH,
                          num_hidden_layers=2, vocab_size=VOCABULARY, state_size=8),
    "bert": hugging_face("BertForMaskedLM", "BertConfig", causal, **SMALL,
                         vocab_size=VOCABULARY, max_position_embeddings=64),
    "distilbert": hugging_face("DistilBertForMaskedLM", "DistilBertConfig", causal, dim=WIDTH,
                               n_layers=2, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY),
    "t5": hugging_face("T5ForConditionalGeneration", "T5Config", causal, d_model=WIDTH, d_kv=8,
                       d_ff=48, num_layers=2, num_heads=4, vocab_size=VOCABULARY,
                       decoder_start_token_id=0),
    "bart": hugging_face("BartForConditionalGeneration", "BartConfig", causal, d_model=WIDTH,
                         encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
                         decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
                         vocab_size=VOCABULARY, max_position_embeddings=64),
    "vit": hugging_face("ViTForImageClassification", "ViTConfig", classified, **SMALL,
                        image_size=32, patch_size=8),
    "convnext": hugging_face("ConvNextForImageClassification", "ConvNextConfig", classified,
                             hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1]),
    "swin": hugging_face("SwinForImageClassification", "SwinConfig", classified, image_size=32,
                         patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2],
                         window_size=4),
    "whisper": hugging_face("WhisperForConditionalGeneration", "WhisperConfig", spectrum,
                            d_model=WIDTH, encoder_layers=1, decoder_layers=1,
                            encoder_attention_heads=4, decoder_attention_heads=4,
                            encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=VOCABULARY,
                            num_mel_bins=16, max_source_positions=20, max_target_positions=32,
                            decoder_start_token_id=1, pad_token_id=0, bos_token_id=1,
                            eos_token_id=2),
    "clip": hugging_face(
        "CLIPModel", "CLIPConfig", image_and_text,
        text_config={**SMALL, "vocab_size": VOCABULARY, "max_position_embeddings": 32,
                     "eos_token_id": 2},
        vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=16),
}


class Residual(nn.Module):
    """A small residual network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False)
        self.blocks = nn.ModuleList(nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)) for _ in range(2))
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 3, stride=2, padding=1)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(F.dropout(F.adaptive_avg_pool2d(x, 1).flatten(1), 0.2, self.training))


class UNet(nn.Module):
    """Down, up and a bridge, with group norm and SiLU, as in diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.middle = nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1))
        self.up = nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        first = self.into(x)
        low = self.down(first)
        low = low + self.middle(low)
        low = F.interpolate(F.avg_pool2d(low, 2), scale_factor=2.0, mode="nearest") + low
        return self.out(torch.cat([first, self.up(low)], 1))


class Graph(nn.Module):
    """Messages along edges, summed and maximised at their targets by ``scatter_reduce``."""

    NODES, EDGES = 40, 150

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update = nn.Linear(16, 16), nn.Linear(32, 16)

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        sent = F.elu(self.message(x))[source].to(x.dtype)
        index = target[:, None].expand_as(sent)
        total = torch.zeros_like(x).scatter_add(0, index, sent)
        most = torch.zeros_like(x).scatter_reduce(0, index, sent, "amax", include_self=False)
        return self.update(torch.cat([total, most], 1))


class Recurrent(nn.Module):
    """An LSTM and a GRU over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.lstm, self.gru = nn.LSTM(16, 16, 2, batch_first=True), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.lstm(self.embedding(ids))[0])[0])


def _classes(model: nn.Module, step: int) -> Tensor:
    return F.cross_entropy(model(images(step)), torch.tensor([step % 10, 3]), label_smoothing=0.1)


def _denoising(model: nn.Module, step: int) -> Tensor:
    x = images(step)
    return F.mse_loss(model(x + 0.1 * images(step + 500)), x)


def _nodes(model: nn.Module, step: int) -> Tensor:
    draw = generator(step)
    x = torch.randn(Graph.NODES, 16, generator=draw)
    source, target = torch.randint(0, Graph.NODES, (2, Graph.EDGES), generator=draw)
    return F.smooth_l1_loss(model(x, source, target), x)


def _next_token(model: nn.Module, step: int) -> Tensor:
    ids = tokens(step)
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


OWN: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "resnet": (Residual, _classes), "u-net": (UNet, _denoising), "gnn": (Graph, _nodes),
    "rnn": (Recurrent, _next_token),
}
MODELS = {**TRANSFORMERS, **OWN}
