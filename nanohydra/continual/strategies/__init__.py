"""The strategies, one file each. Imported by name, so that asking for their names loads nothing."""

STRATEGIES = {
    "naive": "naive:Naive",
    "joint": "joint:Joint",
    "alone": "alone:Alone",
    "replay": "replay:Replay",
    "generative_replay": "generative_replay:GenerativeReplay",
    "ewc": "ewc:EWC",
    "online_ewc": "online_ewc:OnlineEWC",
    "lwf": "lwf:LwF",
    "kl_replay": "kl_replay:KLReplay",
    "lora": "lora:LoRAPerTask",
    "o_lora": "o_lora:OLoRA",
    "nested_lora": "nested_lora:NestedLoRA",
    "packnet": "packnet:PackNet",
    "progressive": "progressive:Progressive",
    "sparse_memory": "sparse_memory:SparseMemory",
}
"""For each name its module and class."""
