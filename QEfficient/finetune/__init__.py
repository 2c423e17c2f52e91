"""Fine-tunes causal language models and classifiers of texts on the Trainers of TRL and transformers.

Knows checkpoints, data sets and Hugging Face models; knows no export, no target and no package.
"""
