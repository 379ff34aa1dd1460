# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What every module of the collection does around its task.

A task is a plain function ``task(params, check_mode) -> result``. It knows nothing of `AnsibleModule`: it raises a
`StorageError` to fail, and what it puts under ``warnings`` is shown as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import remove_values

from .._ground.errors import MissingRequirement, StorageError
from .._ground.os_errors import told
from .interpreter import ensure

Params = dict[str, Any]
Task = Callable[[Params, bool], dict[str, Any]]
Requires = Union[Iterable[str], Callable[[Params], Iterable[str]]]
Secrets = Callable[[Params], Iterable[str]]


class _Module(AnsibleModule):  # type: ignore[misc]
    """An Ansible module that also hides what is secret within a value, such as the password in a URL.

    Ansible itself knows only of parameters that are secret as a whole.
    """

    def __init__(self, secrets: Secrets, **options: Any) -> None:
        self._secrets = secrets
        super().__init__(**options)

    def log(self, msg: Any, log_args: Mapping[str, Any] | None = None) -> None:
        """See AnsibleModule: what goes to syslog and the journal, first of all the parameters."""
        self._hide()
        super().log(msg, {name: remove_values(value, self.no_log_values) for name, value in (log_args or {}).items()})

    def exit_json(self, **result: Any) -> None:
        """See AnsibleModule."""
        self._hide()
        super().exit_json(**result)

    def fail_json(self, msg: str, **facts: Any) -> None:
        """See AnsibleModule. It may be called before the parameters were found to be well-formed."""
        self._hide()
        super().fail_json(msg, **facts)

    def _hide(self) -> None:
        self.no_log_values.update(self._secrets(self.params))


def run_module(
    argument_spec: Mapping[str, Any],
    task: Task,
    requires: Requires = ("libvirt",),
    secrets: Secrets = lambda _params: (),
    **options: Any,
) -> None:
    """Run ``task`` as an Ansible module, and end the process.

    ``requires`` are the Python modules that the task imports, or a function of the parameters that says which; the
    module goes on under an interpreter that has them. In check mode a missing one is a warning, since the task that
    installs it has not really run either. ``secrets`` gives what is not to be shown or logged of parameters that are
    not secret as a whole; it takes parameters of any shape. ``options`` go to `AnsibleModule`.
    """
    module = _Module(secrets, argument_spec=dict(argument_spec), supports_check_mode=True, **options)
    try:
        result = _result(module, task, requires)
    except StorageError as error:
        module.fail_json(msg=error.message, **error.facts)
    except OSError as error:
        module.fail_json(msg=told(error).message, errno=error.errno)
    else:
        for warning in result.pop("warnings", ()):
            module.warn(warning)
        module.exit_json(**result)


def _result(module: AnsibleModule, task: Task, requires: Requires) -> dict[str, Any]:
    try:
        ensure(requires(module.params) if callable(requires) else requires)
    except MissingRequirement as error:
        if not module.check_mode:
            raise
        module.warn(error.message)
    return task(module.params, module.check_mode)
