# ruff: noqa: E501
"""Chat templates in the styles that models' have, written for these tests, and conversations."""

from __future__ import annotations

from typing import Any

_GEN = "{% if add_generation_prompt %}"
_CHATML = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}"
_EACH = "{% for m in messages %}"
_END = "{% endfor %}"
_TOOLS = (
    "{%- if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}"
    "{{ messages[0].content + '\n\n' }}{% endif %}# Tools\n<tools>"
    "{%- for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools><|im_end|>\n{%- endif %}"
)
_CALLS = (
    "{%- for m in messages %}{%- if m.tool_calls %}<|im_start|>assistant"
    "{%- if m.content %}\n{{ m.content }}{% endif %}{%- for call in m.tool_calls %}"
    "{%- if call.function %}{% set call = call.function %}{% endif %}\n<tool_call>\n"
    '{"name": "{{ call.name }}", "arguments": {{ call.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{%- elif m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ m.content }}\n</tool_response>"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{%- else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endif %}{%- endfor %}"
)
_LLAMA3 = (
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content or '') | trim "
    "+ '<|eot_id|>' }}"
)
_LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content "
    "+ '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}"
    "{% set rest = messages %}{% endif %}"
)
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles have to alternate') }}{% endif %}"
)
TEMPLATES = {
    "chatml": f"{_EACH}{_CHATML}{_END}{_GEN}{{{{ '<|im_start|>assistant\n' }}}}{{% endif %}}",
    "chatml-default-system": (
        f"{_EACH}{{% if loop.first and m.role != 'system' %}}<|im_start|>system\nBe kind.<|im_end|>"
        f"\n{{% endif %}}{_CHATML}{_END}{_GEN}<|im_start|>assistant\n{{% endif %}}"
    ),
    "chatml-generation": (
        f"{_EACH}{{% if m.role == 'assistant' %}}<|im_start|>assistant\n{{% generation %}}"
        f"{{{{ m.content }}}}<|im_end|>{{% endgeneration %}}\n{{% else %}}{_CHATML}{{% endif %}}"
        f"{_END}{_GEN}<|im_start|>assistant\n{{% endif %}}"
    ),
    "generation-scope": (
        "{% set x = 1 %}{%- generation -%} a {% set x = 2 %}{{ x }} {%- endgeneration -%}{{ x }}"
    ),
    "generation-nested": (
        f"{_EACH}{{% generation %}}{{% for w in (m.content or '').split(' ') %}}<{{{{ w }}}}>"
        f"{{% endfor %}}{{% endgeneration %}}{_END}"
    ),
    "lines-trimmed": (
        "{% for m in messages %}\n    {% if m.role == 'user' %}\nU: {{ m.content }}\n    {% else %}\n"
        "A: {{ m.content }}\n    {% endif %}\n{% endfor %}\n{# a comment #}\n"
    ),
    "llama2": (
        f"{_LLAMA2}{{% for m in rest %}}{_ALTERNATE}{{% if m.role == 'user' %}}{{{{ bos_token + "
        "'[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        f"{_EACH}{{% if loop.first %}}{{{{ bos_token }}}}{{% endif %}}{_LLAMA3}{_END}{_GEN}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama3-date": (
        "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
        "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
        "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}Today Date: "
        f"{{{{ date_string }}}}\n{_EACH}{_LLAMA3}{_END}"
    ),
    "llama3-tools": (
        "{{- bos_token }}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
        "{%- if tools is not none %}Environment: ipython\n{%- for t in tools %}"
        f"{{{{ t | tojson(indent=4) }}}}\n\n{{%- endfor %}}{{%- endif %}}{_EACH}{_LLAMA3}{_END}"
    ),
    "llama3-undefined-tools": "{% if tools is undefined %}undefined{% endif %}{{ tools is none }}",
    "mistral": (
        f"{{{{ bos_token }}}}{_EACH}{_ALTERNATE}{{% if m.role == 'user' %}}[INST] "
        "{{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral-tools": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools is not none and "
        "loop.last %}[AVAILABLE_TOOLS] [{% for tool in tools %}{{ tool.function | tojson }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}][/AVAILABLE_TOOLS]{% endif %}[INST] "
        "{{ m.content }}[/INST]{% elif m.tool_calls is defined and m.tool_calls is not none %}"
        "[TOOL_CALLS] {{ m.tool_calls | tojson }}{{ eos_token }}{% elif m.role == 'tool' %}"
        '[TOOL_RESULTS] {"content": {{ m.content | string }}}[/TOOL_RESULTS]{% else %}'
        "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral-system-last": (
        "{% set ns = namespace(system='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.system = m.content %}{% endif %}{% endfor %}{{ ns.system }}|"
        "{{ messages | rejectattr('role', 'equalto', 'system') | map(attribute='content') "
        "| join('|') }}"
    ),
    "qwen-tools": f"{_TOOLS}{_CALLS}{_GEN}<|im_start|>assistant\n{{% endif %}}",
    "qwen-thinking": (
        f"{_CALLS}{_GEN}<|im_start|>assistant\n{{%- if enable_thinking is defined and "
        "enable_thinking is false %}<think>\n\n</think>\n\n{%- endif %}{%- endif %}"
    ),
    "qwen-strip-thought": (
        "{%- set ns = namespace(last=-1) %}{%- for m in messages[::-1] %}{%- set i = (messages | "
        "length - 1) - loop.index0 %}{%- if ns.last < 0 and m.role == 'user' %}{%- set ns.last = i %}"
        "{%- endif %}{%- endfor %}{%- for m in messages %}{%- set text = m.content or '' %}"
        "{%- if m.role == 'assistant' and '</think>' in text %}{%- set text = text.split('</think>')"
        "[-1].lstrip('\n') %}{%- endif %}{{ m.role }}{{ ns.last }}: {{ text }}\n{%- endfor %}"
    ),
    "reasoning-field": (
        "{% for m in messages %}{% if m.reasoning_content is string %}<think>{{ m.reasoning_content"
        " }}</think>{% endif %}{{ m.thinking }}{{ m.content }};{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') "
        f"}}}}{{% endif %}}{_EACH}{{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        f"{_GEN}{{{{ '<start_of_turn>model\n' }}}}{{% endif %}}"
    ),
    "gemma-merged-system": (
        "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = "
        "messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}{%- else -%}"
        "{%- set first = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
        "{%- for m in loop_messages -%}<start_of_turn>{{ m['role'] }}\n{{ first if loop.first else '' "
        "}}{%- if m['content'] is string -%}{{ m['content'] | trim }}{%- elif m['content'] is iterable"
        " -%}{%- for item in m['content'] -%}{%- if item['type'] == 'text' -%}{{ item['text'] }}"
        "{%- endif -%}{%- endfor -%}{%- endif -%}<end_of_turn>\n{%- endfor -%}"
    ),
    "deepseek": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ 'User: ' + m['content'] + '\n\n' }}{% elif m['role'] == 'assistant' %}"
        "{{ 'Assistant: ' + (m['content'] or '') + eos_token }}{% elif m['role'] == 'system' %}"
        "{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ 'Assistant:' }}{% endif %}"
    ),
    "deepseek-namespace": (
        "{% set ns = namespace(first=true, tool=false, system='') %}{%- for m in messages %}"
        "{%- if m.role == 'system' %}{%- set ns.system = ns.system + m.content %}{%- endif %}"
        "{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for m in messages %}{%- if m.role == 'user' %}"
        "{%- set ns.tool = false %}<|User|>{{ m.content }}{%- endif %}{%- if m.role == 'assistant' "
        "and m.tool_calls %}{%- for call in m.tool_calls %}{%- if not ns.first %}\n{%- endif %}"
        "{%- set ns.first = false %}```json\n{{ call.function.arguments | tojson }}\n```"
        "{%- endfor %}{%- elif m.role == 'assistant' %}<|Assistant|>{{ m.content }}{{ eos_token }}"
        "{%- endif %}{%- endfor %}"
    ),
    "phi": f"{_EACH}{{{{ '<|' + m.role + '|>' + '\n' + m.content + '<|end|>\n' }}}}{_END}{_GEN}"
    "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "zephyr": f"{_EACH}\n<|{{{{ m.role }}}}|>\n{{{{ m.content + eos_token }}}}\n{_END}",
    "vicuna": (
        "{% for m in messages %}{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: ', 'system': '', "
        "'tool': 'TOOL: '}[m.role] ~ m.content ~ (eos_token if m.role == 'assistant' else ' ') }}"
        "{% endfor %}"
    ),
    "alpaca": (
        "{% for m in messages %}### {{ m.role | capitalize }}:\n{{ m.content | default('-', true) }}"
        "\n\n{% endfor %}### Response:\n"
    ),
    "command-documents": (
        "{% if documents %}{% for d in documents %}Document: {{ loop.index0 }}\n{{ d.title | title }}"
        "\n{{ d.text }}\n{% endfor %}{% elif documents is none %}none{% else %}?{% endif %}"
    ),
    "functionary-types": (
        "{%- macro kind(s) -%}{%- if s.type == 'array' -%}{{ kind(s['items']) }}[]{%- else -%}"
        "{{ s.type }}{%- endif -%}{%- endmacro -%}{%- for t in tools or [] -%}type {{ t.function.name "
        "}} = (_: {{ '{' }}{%- for name, s in t.function.parameters.properties.items() -%}{{ name }}"
        ": {{ kind(s) }}, {%- endfor -%}{{ '}' }}) => any;{%- endfor -%}"
    ),
    "tojson-sorted": "{{ tools | tojson(sort_keys=true) }}{{ messages | tojson(indent=2) }}",
    "tojson-separators": "{{ messages | tojson(separators=(',', ':')) }}",
    "tojson-ascii": "{{ messages | tojson(ensure_ascii=true) }}{{ messages | tojson }}",
    "special-tokens": (
        "{{ pad_token }}{{ unk_token }}{{ sep_token is defined }}{{ cls_token }}{{ mask_token }}"
        "{{ image_token is defined }}{{ additional_special_tokens }}"
    ),
    "absent-token": (
        "{% if sep_token is defined %}{{ sep_token }}{% else %}no{% endif %}{{ sep_token is none }}"
        "{{ sep_token }}{{ sep_token or 'x' }}"
    ),
    "absent-token-added": "{{ sep_token + messages[0].content }}",
    "loop-controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "keys": "{% for m in messages %}{{ m.keys() | list }}{% if 'content' in m %}+{% endif %}"
    "{{ m.get('name', '?') }}{{ m.tool_calls is none }}{% endfor %}",
    "mutation": "{% set _ = messages.append({'role': 'user'}) %}{{ messages | length }}",
    "attributes": "{{ messages.__class__ }}{{ ''.__class__.__mro__ }}",
    "time": "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%B, %%') }}",
    "dict": "{{ dict(a=1, b='<é>') | tojson }}{{ dict.fromkeys(['x']) | tojson }}{{ range(3) | list }}",
    "custom": "{{ style | default('plain') }}{{ enable_thinking }}{{ add_generation_prompt }}",
    "unknown-filter": "{{ messages | shout }}",
    "unknown-tag": "{% speak %}{{ messages }}{% endspeak %}",
    "granite": (
        "{%- for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>"
        "{{ (m['content'] or '') | replace('<', '&') }}<|end_of_text|>\n{% endfor %}"
        "{{- strftime_now('%B %d, %Y') }}"
    ),
}  # fmt: skip
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather", "description": "It's <b>now</b> & in Zürich: '°C'",
        "parameters": {
            "type": "object",
            "properties": {"where": {"type": "string"}, "days": {
                "type": "array", "items": {"type": "array", "items": {"type": "integer"}},
            }},
            "required": ["where"],
        },
    },
}  # fmt: skip
_CALL = {"type": "function", "id": "a1b2c3d4e", "function": {
    "name": "weather", "arguments": {"where": "Zürich <ZH>", "days": [1]},
}}  # fmt: skip
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one turn": ([{"role": "user", "content": " Is 2 < 3 & 'é' > \"e\"? 你好 🙂 "}], {}),
    "several turns": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello.", "reasoning": "hm"},
            {"role": "user", "content": "More\n"},
        ],
        {"enable_thinking": False, "style": "<plain>"},
    ),
    "tools": (
        [
            {"role": "user", "content": "Weather?", "name": None},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "content": '{"sky": "grey"}', "tool_call_id": "a1b2c3d4e"},
            {"role": "tool", "content": "☔", "tool_call_id": "a1b2c3d4e"},
            {"role": "assistant", "content": "Rain.", "tool_calls": None},
            {"role": "user", "content": "Thanks"},
        ],
        {"tools": [_TOOL, _TOOL], "documents": [{"title": "a b", "text": "<c>"}]},
    ),
    "parts, no tools": (
        [{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "2"}]}],
        {"tools": [], "documents": []},
    ),
}  # fmt: skip
