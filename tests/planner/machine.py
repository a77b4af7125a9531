"""A machine of two cores as a calibration might find it, with round figures."""

from dataclasses import replace

from megatron_mplug2.config.training import Precision
from megatron_mplug2.planner.profile import Profile
from megatron_mplug2.planner.rates import Curve, Exchange, Measured, PassRates, Rates, level

FORWARD = PassRates(products=Curve(((1e6, 10e9), (1e8, 40e9))), attention=level(20e9), elementwise=2e9, launch=50e-6)
BACKWARD = PassRates(products=level(30e9), attention=level(15e9), elementwise=1e9, launch=100e-6)
ALONE = Rates(forward=FORWARD, backward=BACKWARD, memory=8e9, tensor=1e-6)
TOGETHER = Rates(forward=FORWARD, backward=BACKWARD, memory=4e9, tensor=1e-6)
EXCHANGES = {exchange: Curve(((1e3, 1e7), (1e6, 1e9))) for exchange in Exchange}
SPLIT = replace(TOGETHER, forward=replace(FORWARD, launch=80e-6))
SEQUENCE = replace(TOGETHER, forward=replace(FORWARD, launch=90e-6))
MEASURED = Measured(rates={1: ALONE, 2: TOGETHER}, split={2: SPLIT}, sequence={2: SEQUENCE}, exchanges={2: EXCHANGES})
PROFILE = Profile(name="two cores", precision=Precision.FP32, memory=4e9, measured=MEASURED)
