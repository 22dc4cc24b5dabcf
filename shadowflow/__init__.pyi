from .batching import shuffled as shuffled, with_replacement as with_replacement
from .curvature import Curvature as Curvature, curvature as curvature
from .diagnostics.bias import (
    ImplicitBias as ImplicitBias,
    Measure as Measure,
    implicit_bias as implicit_bias,
)
from .diagnostics.comparison import Comparison as Comparison, compare as compare
from .diagnostics.convergence import (
    OrderRow as OrderRow,
    OrderTable as OrderTable,
    convergence as convergence,
)
from .diagnostics.error_bar import ErrorBar as ErrorBar, error_bar as error_bar
from .diagnostics.shuffle_mean import ShuffleMean as ShuffleMean, shuffle_mean as shuffle_mean
from .ema_weights import Truncation as Truncation
from .fields import (
    Field as Field,
    memoryless_step as memoryless_step,
    modified_field as modified_field,
)
from .iterate import iterate as iterate
from .optimizers.base import State as State, state_from_optax as state_from_optax
from .optimizers.from_optax import from_optax as from_optax
from .optimizers.moments import (
    Moment as Moment,
    Optimizer as Optimizer,
    identity as identity,
    safe_sqrt as safe_sqrt,
    square as square,
)
from .optimizers.thresholds import (
    Threshold as Threshold,
    flow_threshold as flow_threshold,
    stability_threshold as stability_threshold,
)
from .optimizers.zoo import (
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
from .problem import Problem as Problem
from .running import Trajectory as Trajectory
from .shadow import Shadow as Shadow, settled_state as settled_state, shadow as shadow
from .symbolic import derive as derive
from .trust import Validity as Validity
