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

TEMPLATES = {"llama3": LLAMA3, "qwen": QWEN, "mistral": MISTRAL, "gemma": GEMMA, "training": TRAINING}

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
