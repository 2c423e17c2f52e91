"""Fine-tunes causal language models on the Trainer of TRL, with PEFT and Accelerate.

Knows checkpoints, data sets and Hugging Face models; knows no export, no target and no package.
"""
