"""A recipe as a researcher writes it: what the tests of authoring start from."""

from __future__ import annotations

from typing import Final

RECIPE: Final = """\
title = "Digits"
purpose = "Recognise digits"
method = "ffa-lora"
rounds = 20

[base]
name = "digits-vit"
path = "base"

[task]
kind = "image-classification"
data = "digits"
labels = ["0", "1"]
image_mean = 0.5

[adapter]
rank = 4
alpha = 16
target_modules = ["q_proj"]

[privacy]
mode = "distributed"
epsilon = 8
delta = 1e-5
sampling_rate = 0.5

[training]
learning_rate = 0.1

[evaluation]
data = "held-out"
"""
