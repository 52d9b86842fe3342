"""A Mix Transformer's weights under other people's names, spelled out without the program's own renaming."""

from __future__ import annotations

from torch import Tensor

State = dict[str, Tensor]


def official(state: State) -> State:
    """The names in the published mit_b*.pth, classifier included."""
    names = {}
    for key, value in state.items():
        part = key.split(".")
        if part[0] == "patch_embed":
            part[0] = "patch_embed1"
        else:
            stage = str(int(part[1]) + 1)
            part = {
                "blocks": ["block" + stage, *part[3:]],
                "downsample": ["patch_embed" + stage, *part[3:]],
                "norm": ["norm" + stage, *part[3:]],
            }[part[2]]
        if "dwconv" in part:
            part.insert(part.index("dwconv"), "dwconv")
        names[".".join(part)] = value
    last = state["stages.3.norm.weight"]
    return names | {"head.weight": last.new_zeros(1000, len(last)), "head.bias": last.new_zeros(1000)}


def hugging_face(state: State, prefix: str = "segformer.") -> State:
    """The names in nvidia/mit-b*: key and value are layers of their own."""
    inner = {
        "norm1": "layer_norm_1",
        "norm2": "layer_norm_2",
        "attn.q": "attention.self.query",
        "attn.sr": "attention.self.sr",
        "attn.norm": "attention.self.layer_norm",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.dense1",
        "mlp.dwconv": "mlp.dwconv.dwconv",
        "mlp.fc2": "mlp.dense2",
    }
    names: State = {}
    for key, value in state.items():
        path, _, kind = key.rpartition(".")
        part = path.split(".")
        stage = "0" if part[0] == "patch_embed" else part[1]
        if part[0] == "patch_embed" or part[2] == "downsample":
            layer = {"proj": "proj", "norm": "layer_norm"}[part[-1]]
            names[f"{prefix}encoder.patch_embeddings.{stage}.{layer}.{kind}"] = value
        elif part[2] == "norm":
            names[f"{prefix}encoder.layer_norm.{stage}.{kind}"] = value
        else:
            block = f"{prefix}encoder.block.{stage}.{part[3]}."
            layer = ".".join(part[4:])
            if layer == "attn.kv":
                half = len(value) // 2
                names[f"{block}attention.self.key.{kind}"] = value[:half].clone()
                names[f"{block}attention.self.value.{kind}"] = value[half:].clone()
            else:
                names[f"{block}{inner[layer]}.{kind}"] = value
    return names


def with_decode_head(state: State) -> State:
    """nvidia/segformer-b*: the encoder and a head trained for another data set."""
    some = next(iter(state.values()))
    return state | {
        "decode_head.linear_c.0.proj.weight": some.new_zeros(256, 32),
        "decode_head.batch_norm.num_batches_tracked": some.new_zeros(()),
        "decode_head.classifier.bias": some.new_zeros(150),
    }
