"""SGD as torch has it, without the import of torch's compiler that every optimiser of torch begins with."""

import inspect

import torch


class SGD(torch.optim.SGD):
    """``torch.optim.SGD``, whose first call does not take two seconds.

    torch's optimisers keep their methods out of compiled graphs by wrappers that import ``torch._dynamo`` when they
    are first called, though nothing is compiled: it takes as long as importing torch itself. These are the methods
    below the wrappers. Not for use inside a function that ``torch.compile`` compiles, nor with ``differentiable``.
    """

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
