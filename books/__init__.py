"""Books as tiny models: corpus, teacher, distillation, judging, the shelf."""
