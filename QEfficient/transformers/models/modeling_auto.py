"""The auto classes, each a task and little else, under the path that the field knows."""

from QEfficient.transformers.models.causal_lm import QEFFAutoModelForCausalLM
from QEfficient.transformers.models.ctc import QEFFAutoModelForCTC
from QEfficient.transformers.models.encoder import QEFFAutoModel
from QEfficient.transformers.models.image_text_to_text import QEFFAutoModelForImageTextToText
from QEfficient.transformers.models.seq2seq_lm import QEFFAutoModelForSeq2SeqLM
from QEfficient.transformers.models.sequence_classification import QEFFAutoModelForSequenceClassification
from QEfficient.transformers.models.speech_seq2seq import QEFFAutoModelForSpeechSeq2Seq
from QEfficient.transformers.models.vision2seq import QEFFAutoModelForVision2Seq

__all__ = [
    "QEFFAutoModel",
    "QEFFAutoModelForCTC",
    "QEFFAutoModelForCausalLM",
    "QEFFAutoModelForImageTextToText",
    "QEFFAutoModelForSeq2SeqLM",
    "QEFFAutoModelForSequenceClassification",
    "QEFFAutoModelForSpeechSeq2Seq",
    "QEFFAutoModelForVision2Seq",
]
