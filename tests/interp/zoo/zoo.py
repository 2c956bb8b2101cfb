"""All architectures of the zoo."""

from __future__ import annotations

from tests.interp.zoo.decoders import DECODERS, MIXTURES
from tests.interp.zoo.encoder_decoders import ENCODER_DECODERS
from tests.interp.zoo.encoders import ENCODERS
from tests.interp.zoo.hybrids import HYBRIDS
from tests.interp.zoo.multimodal import MULTIMODAL
from tests.interp.zoo.own_code import OWN_CODE
from tests.interp.zoo.speech import SPEECH
from tests.interp.zoo.vision import VISION

ZOO = (*DECODERS, *MIXTURES, *HYBRIDS, *ENCODERS, *ENCODER_DECODERS, *VISION, *SPEECH, *MULTIMODAL, *OWN_CODE)
