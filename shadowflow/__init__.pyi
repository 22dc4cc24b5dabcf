from .iterate import Trajectory as Trajectory, iterate as iterate
from .optimizer import (
    Moment as Moment,
    Optimizer as Optimizer,
    State as State,
    identity as identity,
    safe_sqrt as safe_sqrt,
    square as square,
)
from .problem import Problem as Problem
from .zoo import (
    adam as adam,
    adamw as adamw,
    lion as lion,
    momentum as momentum,
    nadam as nadam,
    nesterov as nesterov,
    rmsprop as rmsprop,
    sgd as sgd,
    signum as signum,
)
