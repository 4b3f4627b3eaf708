"""Text that runs, where a page takes it for more than text: each would set `window.stolen`."""

from typing import Final

HOSTILE: Final = (
    "<script>window.stolen = 1</script>",
    "<img src=x onerror='window.stolen = 1'>",
    '"><svg onload=window.stolen=1>',
    "' autofocus onfocus='window.stolen = 1",
    "</textarea><script>window.stolen = 1</script>",
    "</title><script>window.stolen = 1</script>",
    "{{ 7 * 7 }}{% raw %}${window.stolen = 1}",
    "javascript:window.stolen=1",
    "<a href='javascript:window.stolen=1'>click</a>",
    "<div hx-get='/sign-out' hx-trigger='load' hx-on::load='window.stolen = 1'>",
    "<template><script>window.stolen = 1</script></template>",
    "<!--><img src=x onerror=window.stolen=1>-->",
)
