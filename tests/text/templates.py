# ruff: noqa: RUF001 - special tokens are written so
"""Chat templates in the manner of the supported families, and conversations to fill them."""

from __future__ import annotations

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{{- system_message }}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a careful solver.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}{% for message in messages %}
{% if message['role'] not in ['user', 'assistant'] %}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% endif %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/...') }}
{% endif %}
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}
{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}
"""

GEMMA = """\
{{ bos_token }}
{%- set state = namespace(prefix='') -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {%- set state.prefix = message['content'] + '\\n\\n' -%}
        {%- continue -%}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (state.prefix if loop.index0 < 2 else '') }}
    {{- message['content'] | trim }}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\\n' }}
{%- endif -%}
"""

TRAINING = """\
{% for message in messages %}
    {% if message.role == 'assistant' %}
        {% generation %}
{{ message.content | tojson }} <{{ dict(a=1) | tojson }}>
        {% endgeneration %}
    {% else %}
{{ message | tojson(indent=2) }}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}{% break_is_text %}{% endif %}
""".replace("{% break_is_text %}", "{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")

DATED = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- set told = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set told = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date_string + "\n\n" + told + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""

THINKING = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- if reasoning_effort is defined %}
    {{- '<|im_start|>system\n' + (reasoning_effort | string | capitalize) + ' effort<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\n') %}
    {%- endif %}
    {%- if message.role == 'assistant' and loop.index0 > ns.last %}
        {%- set content = '<think>\n' + message.reasoning_content | default('') + '\n</think>\n\n' + content %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}
"""

R1 = """\
{%- if not add_generation_prompt is defined %}{%- set add_generation_prompt = false %}{%- endif %}
{%- set ns = namespace(head='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{%- set ns.head = message['content'] %}{%- endif %}
{%- endfor %}
{{- bos_token }}{{ ns.head }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' %}
        {{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{%- endif %}
"""

PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

# Says nothing, and prints no system message.
DEAF = (
    "{% for message in messages if message.role in ['user', 'assistant'] %}"
    "[{{ message.role }}] {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)

TEMPLATES = {
    "llama3": LLAMA3,
    "qwen": QWEN,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "training": TRAINING,
    "dated": DATED,
    "thinking": THINKING,
    "r1": R1,
    "phi": PHI,
    "deaf": DEAF,
}
VARIABLES = [
    {},
    {"enable_thinking": False},
    {"enable_thinking": True, "reasoning_effort": "high"},
    {"date_string": "1 May"},
]

SYSTEM = {"role": "system", "content": "Answer  briefly. "}
USER = {"role": "user", "content": " What is 1 < 2 & 'é' \"日本\"?\n"}
ASSISTANT = {"role": "assistant", "content": "Step 1: compare.\n\n"}
CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "open": [USER, ASSISTANT],
    "long": [USER, {"role": "assistant", "content": "True. "}, {"role": "user", "content": "Why? </s>"}, ASSISTANT],
    "repeated": [USER, ASSISTANT, USER, ASSISTANT],
    "open without space": [SYSTEM, USER, {"role": "assistant", "content": "So"}],
    "open and empty": [USER, {"role": "assistant", "content": ""}],
}
