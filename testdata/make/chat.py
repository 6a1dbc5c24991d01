"""Writes testdata/golden/chat/cases.json and probes.json: what transformers renders of chat templates.

    python testdata/make/chat.py

The templates beside them are our own, each with constructs that templates of published models use. cases.json has
conversations and, for each template, the text that `apply_chat_template` gives, or that it fails. probes.json has short
templates, a construct each, and what Jinja in transformers' sandbox makes of them.

The clock stands at 2026-03-05 07:08:09.
"""

import datetime
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Scripts here are called as the packages they use: this folder must not come before those.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != HERE]

import jinja2  # noqa: E402
import tokenizers  # noqa: E402
import transformers  # noqa: E402
from transformers.utils import chat_template_utils  # noqa: E402

OUT = HERE.parent / "golden" / "chat"
NOW = datetime.datetime(2026, 3, 5, 7, 8, 9)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.\nFor \"one\" place, <now> & here: ü",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where"},
                "units": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
                "days": {"type": ["integer", "null"], "default": 1},
                "hours": {"type": "array", "items": {"type": "integer"}},
                "options": {"type": "object", "properties": {"wind": {"type": "boolean"}}, "required": ["wind"]},
                "anything": {"type": "array"},
            },
            "required": ["place", "options"],
        },
        "return": {"type": "string"},
    },
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}


def call(name, arguments, id=None):
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": id, **made} if id else made


def turn(role, content=None, **more):
    return {"role": role, "content": content, **more}


SHORT = [turn("user", "  Hello there!  ")]
SYSTEM = [turn("system", " Be brief.\n"), turn("user", "What is 2+2?"), turn("assistant", "4 \n"), turn("user", "Sure?")]
TOOLS = [
    turn("system", "Use tools."),
    turn("user", "Weather in Zürich?", name="Ann"),
    turn("assistant", None, tool_calls=[call("get_weather", {"place": "Zürich", "days": 2, "f": 0.5, "on": True, "none": None, "list": [1, "two"], "deep": {"a": {"b": []}}}, "abcdefghi")]),
    turn("tool", "12 °C & \"windy\"", tool_call_id="abcdefghi", name="get_weather"),
    turn("assistant", "It is 12 °C."),
    turn("user", "Thanks"),
]
TWO_CALLS = [
    turn("user", "Add and tell"),
    turn("assistant", "On it.", tool_calls=[call("add", {"a": 1, "b": 2}), call("get_weather", "{\"place\": \"Rom\"}")]),
    turn("tool", {"sum": 3}),
    turn("tool", "sunny"),
]
PARTS = [
    turn("user", [{"type": "image", "image": "x.png"}, {"type": "text", "text": " What is this? "}]),
    turn("assistant", [{"type": "text", "text": "A cat."}]),
    turn("user", [{"type": "video", "video": "y"}, {"type": "image_url", "image_url": "z"}, {"type": "text", "text": "And this?"}]),
]
THINKING = [
    turn("user", "Why?"),
    turn("assistant", "<think>\nBecause…\n</think>\n\nThat is why."),
    turn("user", "Really?"),
    turn("assistant", "Yes.", reasoning_content="It is so.\n"),
]
DEVELOPER = [turn("developer", "Answer in French."), turn("user", "日本語 🦀?"), turn("assistant", "Oui.", thinking="hm"), turn("user", "a\\b \"c\" 'd' <e>\t\n")]
WRONG = [turn("assistant", "I begin"), turn("assistant", "and go on")]

# name, messages, what else is given
CONVERSATIONS = [
    ("short", SHORT, {"add_generation_prompt": True}),
    ("system", SYSTEM, {}),
    ("system, asked", SYSTEM, {"add_generation_prompt": True, "enable_thinking": False, "tone": "", "reasoning_effort": "high"}),
    ("tools", TOOLS, {"tools": [WEATHER, ADD], "add_generation_prompt": True}),
    ("tools, none given", TOOLS[1:], {}),
    ("two calls", TWO_CALLS, {"tools": [ADD], "add_generation_prompt": True, "builtin_tools": ["browser", "python"]}),
    ("parts", PARTS, {"add_generation_prompt": True, "add_vision_id": True}),
    ("thinking", THINKING, {"options": {"limit": "7"}, "default_system": "None here"}),
    ("thinking, asked", THINKING[:3], {"add_generation_prompt": True, "enable_thinking": True}),
    ("developer", DEVELOPER, {"date_string": "1 Jan 2000", "reasoning_effort": "extreme"}),
    ("documents", SYSTEM, {"documents": [{"title": "One", "text": "First\nline and a good deal more than forty characters"}, {"title": "Two", "text": 2, "tags": ["x", "y"]}]}),
    ("wrong", WRONG, {}),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def tokenizer():
    words = {"<s>": 0, "</s>": 1, "x": 2}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="x"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL)


def render(tok, template, messages, more):
    try:
        return {"text": tok.apply_chat_template(messages, chat_template=template, tokenize=False, **more)}
    except (jinja2.exceptions.UndefinedError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError):
        return {"error": "failed"}
    except SyntaxError:
        return {"error": "syntax"}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": "syntax", "message": str(error)}
    except jinja2.exceptions.SecurityError:
        return {"error": "failed"}
    except jinja2.exceptions.TemplateError as error:
        return {"error": "raised", "message": str(error)}


# Short templates, a construct each. The context has `s` = "Hello, World", `n` = 7, `l` = [3, 1, 2], `d` = {"b": 1, "a": [1]},
# `e` = "", `u` = "ß Ünï 日本", `m` = [{"k": "x", "v": 1}, {"k": "Y", "v": 2}, {"k": "x"}].
VALUES = {
    "s": "Hello, World", "n": 7, "l": [3, 1, 2], "d": {"b": 1, "a": [1]}, "e": "", "u": "ß Ünï 日本",
    "m": [{"k": "x", "v": 1}, {"k": "Y", "v": 2}, {"k": "x"}], "f": 2.5, "t": True, "z": None, "w": "  a  b\tc \n",
}


def probes():
    operands = ["n", "f", "s", "l", "d", "t", "z", "missing", "(1, 2)", "0", "-3", "''", "'a'", "[]", "1.0", "m[0].k"]
    for operator in ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or"]:
        for left in operands:
            for right in operands:
                yield f"{{{{ {left} {operator} {right} }}}}"
    values = operands + ["u", "w", "m", "e", "range(3)", "range(0)", "d.items()", "d.keys()", "'42'", "' 4_2 '", "'1e3'", "'-7.9'", "12345678901234567890", "1e22", "'<a & \"b\">'", "[[2, 1], [1, 2]]", "{'x': none}", "namespace(a=1)"]
    filters = ["abs", "batch(2)|list", "capitalize", "center(20)", "count", "default('D')", "default('D', true)", "dictsort", "e", "first", "float", "int", "int(9)", "items|list", "join", "join('-')", "join(', ', 'k')", "last", "length", "list", "lower", "map('upper')|list", "map(attribute='k')|list", "map(attribute='v', default=0)|list", "max", "min", "reject|list", "rejectattr('v')|list", "replace('l', 'L')", "replace('l', 'L', 1)", "reverse|list", "round", "round(1)", "round(0, 'floor')", "safe", "select|list", "selectattr('v')|list", "selectattr('k', 'equalto', 'x')|list", "selectattr('v', 'defined')|map(attribute='v')|list", "slice(2)|list", "sort", "sort(reverse=true)", "string", "sum", "title", "tojson", "tojson(indent=2)", "tojson(indent=1, sort_keys=true)", "trim", "trim('H')", "truncate(6)", "truncate(6, true, '', 0)", "unique|list", "upper", "wordcount", "indent", "indent(2, true)", "indent('>', blank=true)", "string|length", "tojson|length", "list|tojson", "format(1)", "sort(attribute='k')|list", "map('int')|list", "map('string')|join('|')", "first|default('none')", "unknown_filter"]
    for value in values:
        for filter in filters:
            yield f"{{{{ {value} | {filter} }}}}" if "|" not in value else ""
    tests = ["boolean", "callable", "defined", "divisibleby 2", "divisibleby(3)", "eq 7", "equalto('a')", "even", "false", "float", "ge 1", "gt(1)", "in [7, 'a']", "integer", "iterable", "le 7", "lower", "lt 3", "mapping", "ne 7", "none", "number", "odd", "sameas none", "sameas true", "sequence", "string", "true", "undefined", "upper", "escaped", "not defined", "not none", "unknown_test"]
    for value in values:
        for test in tests:
            yield f"{{{{ {value} is {test} }}}}"
    methods = ["strip()", "strip('Hd')", "lstrip()", "rstrip('d')", "split()", "split(',')", "split('l', 1)", "split(none, 1)", "split('')", "rsplit('l', 1)", "rsplit()", "rsplit(none, 1)", "splitlines()", "splitlines(true)", "startswith('He')", "startswith(('x', 'H'))", "endswith('d')", "endswith(n)", "upper()", "lower()", "title()", "capitalize()", "swapcase()", "replace('o', '0')", "replace('o', '0', 1)", "replace('', '.')", "join(['a', 'b'])", "join([1])", "find('o')", "rfind('o')", "index('zz')", "count('l')", "count('')", "isdigit()", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "zfill(15)", "center(15)", "center(16, '*')", "ljust(15, '.')", "rjust(15)", "removeprefix('He')", "removesuffix('ld')", "partition(', ')", "rpartition('zz')", "format(1)", "casefold()", "encode()", "nothing()", "nothing", "items()", "get('b')", "get('zz')", "get('zz', 5)", "keys()", "values()|list", "copy()", "pop()", "append(1)", "update({})", "index(1)", "count(1)", "__class__", "real", "isascii()", "isidentifier()"]
    for value in ["s", "e", "u", "w", "l", "d", "n", "f", "z", "missing", "(1, 1)", "'42'", "'-4'", "'ABC'", "'one\\ntwo\\r\\n'", "range(3)", "m[0]", "'x{}y{0}'", "'Straße'", "'ΑΣ'"]:
        for method in methods:
            yield f"{{{{ {value}.{method} }}}}"
    indexes = ["0", "-1", "99", "'b'", "'items'", "1:", ":-1", "::-1", "-2:", "1:2", "::2", "5:1:-2", "-99:99", "true", "none", "1.0", "[1]", "n", ":0", "::0", "'a':", "none:2", "-1::-1", "missing"]
    for value in ["s", "l", "d", "u", "(4, 5, 6)", "e", "[]", "z", "n", "missing", "range(5)", "m", "d.items()"]:
        for index in indexes:
            yield f"{{{{ {value}[{index}] }}}}"
    yield from PROBES


PROBES = [
    # Precedence and the grammar.
    "{{ 1 + 2 * 3 ** 2 }}", "{{ -2 ** 2 }}", "{{ 2 ** 3 ** 2 }}", "{{ -1|abs }}", "{{ - 1 | abs }}", "{{ not n == 7 }}", "{{ not n and t }}", "{{ 1 ~ 2 + 3 }}", "{{ 1 + 2 ~ 3 }}", "{{ 2 * 3 ~ 4 }}",
    "{{ 1 if t else 2 if z else 3 }}", "{{ (1 if z else 2) if t }}", "{{ 'a' if z }}", "{{ ('a' if z) is defined }}", "{{ n in [7] == true }}", "{{ 1 < n <= 7 != 8 }}", "{{ t and z or 'x' }}", "{{ s|upper ~ n }}", "{{ s|length + 1 }}", "{{ (s|length) * 2 }}",
    "{{ n is odd and t }}", "{{ n is odd or z is none }}", "{{ n is not odd }}", "{{ not n is odd }}", "{{ n is divisibleby 7 if t else 'no' }}", "{{ s is string in [true] }}", "{{ l[0] + l[-1] }}", "{{ d.a[0] }}", "{{ d['a'].0 }}", "{{ m.0.k }}", "{{ m.0.k.0 }}", "{{ [1,2,][1] }}", "{{ {'a': 1,}['a'] }}", "{{ (1) }}", "{{ (1,) }}", "{{ 1, 2 }}", "{{ () }}", "{{ [] }}", "{{ {} }}",
    "{{ 'a' 'b' \"c\" }}", "{{ 'it\\'s' }}", "{{ \"\\x41\\u00e9\\t|\\\\|\\d|\\101|\\0|\" }}", "{{ 'a\\\nb' }}", "{{ '\\N{DASH}' }}", "{{ '\\ud83d' }}", "{{ '\\é' }}", "{{ 1_000 }}", "{{ 0x1F }}", "{{ 0b11 }}", "{{ 0o17 }}", "{{ 1e3 }}", "{{ 1.5e-7 }}", "{{ 1E400 }}", "{{ 00 }}", "{{ 012 }}", "{{ 1__0 }}", "{{ 1.real }}", "{{ .5 }}", "{{ 5. }}", "{{ 99999999999999999999999999999999999999999999 }}",
    "{{ True }} {{ False }} {{ None }} {{ TRUE is defined }}", "{{ n; }}", "{{ n", "{{ }}", "{% %}", "{% if %}{% endif %}", "{% if n %}", "{% endif %}", "{% unknown %}", "{% for %}{% endfor %}", "{% for x l %}{% endfor %}", "{{ (n }}", "{{ n) }}", "{{ [n }}", "{{ n | }}", "{{ n is }}", "{{ 'a }}", "{# never closed", "{% raw %}never", "{{ a b }}", "{{ n @ 2 }}", "{{ n = 2 }}", "{% set 1 = 2 %}", "{% set none = 2 %}", "{% set a.b.c = 2 %}", "{% set x %}", "}} %} #}", "{ { } }", "{{ '}}' }}", "{{ '%}' }}{% if '%}' %}y{% endif %}", "{{ {'a': {'b': 1}}}}", "{{ {'a': {'b': 1}}.a.b}}", "{%if t%}x{%endif%}", "{{n}}{{-n}}{{ -n }}", "{{- -n }}", "{{+n}}", "{{ +n }}",
    # Statements.
    "{% set x = 1 %}{% set x = x + 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ y }}{{ x }}", "{% set x = 1, 2 %}{{ x }}", "{% set (x, y) = [1, 2] %}{{ x }}", "{% set x, y = [1] %}", "{% set x, y = 'ab' %}{{ y }}", "{% set x = y = 1 %}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}", "{% set d.x = 1 %}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.c }}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace(a=[]) %}{% for i in l %}{% set ns.a = ns.a + [i] %}{% endfor %}{{ ns.a }}", "{{ namespace(a=1)['a'] }}", "{% set ns = namespace(x=1) %}{{ ns.items }}",
    "{% for i in l %}{{ i }}{% set q = i %}{% endfor %}{{ q is defined }}", "{% for i in l if i > 1 %}{{ loop.index }}{{ i }}{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}", "{% for i in n %}{% endfor %}", "{% for i in z %}{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}", "{% for k, v in d|items %}{{ k }}{{ v }}{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for a, b in l %}{% endfor %}", "{% for c in s %}{{ c }}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}", "{% for i in l %}{% continue %}x{% else %}e{% endfor %}", "{% for i in l %}{% break %}{% else %}e{% endfor %}", "{% break %}", "{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for i in l recursive %}{{ i }}{% if i == 3 %}{{ loop([9, 8]) }}{% endif %}{% endfor %}", "{% for i in l %}{{ loop([1]) }}{% endfor %}", "{% for i in l %}{{ loop.nope is defined }}{% endfor %}", "{{ loop }}", "{% for i in [1, 2] %}{{ loop }}{% endfor %}", "{% for i in l -%} {{ i }} {%- endfor %}", "{% for i in range(3) %}{{ loop.cycle(*['a', 'b']) }}{% endfor %}", "{% for i in l|sort|reverse %}{{ loop.length }}{% endfor %}", "{% for i in m|map(attribute='k') %}{{ loop.last }}{% endfor %}", "{% for loop in l %}{% endfor %}", "{% for i, in [[1]] %}{{ i }}{% endfor %}", "{% for x in l %}{% if loop.first %}{% set a = x %}{% endif %}{{ a }}{% endfor %}", "{% for i in l: %}{{ i }}{% endfor %}", "{% if t: %}x{% endif %}",
    "{% if n > 5 and l %}a{% elif z %}b{% else %}c{% endif %}", "{% if missing %}a{% endif %}", "{% if missing.x %}a{% endif %}", "{% if missing is defined and missing.x %}a{% endif %}", "{% if not missing %}a{% endif %}", "{% if d.zz %}a{% else %}b{% endif %}", "{% if d.zz.y %}a{% endif %}", "{% if d.zz is defined and d.zz.y %}a{% endif %}", "{% if '' %}a{% elif 0 %}b{% elif 0.0 %}c{% elif [] %}d{% elif {} %}e{% elif () %}f{% else %}g{% endif %}", "{% if l|select %}a{% endif %}", "{% if range(0) %}a{% else %}b{% endif %}", "{% if 1, 2 %}a{% endif %}",
    "{% macro a(x, y=2, *z) %}{% endmacro %}", "{% macro a(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ a(1) }}{{ a(1, 3) }}{{ a(y=1) }}", "{% macro a(x) %}{{ x }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ a(1, 2, 3, k=4) }}", "{% macro a(x) %}{{ x }}{% endmacro %}{{ a(1, 2) }}", "{% macro a(x) %}{{ x }}{% endmacro %}{{ a(q=2) }}", "{% macro a() %}{{ caller('c') }}{% endmacro %}{% call(x) a() %}[{{ x }}]{% endcall %}", "{% macro a() %}x{% endmacro %}{% call a() %}y{% endcall %}", "{% macro a() %}{{ caller is defined }}{% endmacro %}{{ a() }}", "{% macro a(n) %}{{ n }}{% if n > 0 %}{{ a(n - 1) }}{% endif %}{% endmacro %}{{ a(5) }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{{ a() }}{% macro a() %}x{% endmacro %}", "{% macro a() %} x {% endmacro %}[{{ a()|trim }}]{{ a() ~ a() }}{{ a()|length }}", "{% macro a(x=1, y) %}{% endmacro %}", "{% macro a() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ a() }}{{ n }}", "{% set x = 1 %}{% macro a() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ a() }}", "{% macro a() %}{{ later }}{% endmacro %}{{ a() }}|{% set later = 2 %}{{ a() }}", "{% for i in l %}{% macro a() %}{{ i }}{% endmacro %}{{ a() }}{% endfor %}", "{% macro a(x) %}{{ x is defined }}{{ x }}{% endmacro %}{{ a() }}", "{% macro a(b) %}{{ b.c }}{% endmacro %}{{ a() }}", "{{ missing() }}", "{{ n() }}", "{{ s.upper }}", "{% macro a() %}{% endmacro %}{{ a }}", "{% macro a() %}{% endmacro %}{{ a.name }}",
    "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x }}", "{% with a = n, b = 2 %}{{ a + b }}{% endwith %}", "{% with a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}{% endwith %}", "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}a{% endfilter %}", "{% set x %}a{{ n }}{% endset %}{{ x }}{{ x is string }}", "{% set x | upper %}a{% endset %}{{ x }}", "{% print n, s %}", "{% do l.append(1) %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block b %}x{% endblock %}", "{% autoescape true %}{{ '<' }}{% endautoescape %}", "{% generation %}a{% set x = 1 %}{% endgeneration %}{{ x is defined }}", "{%- generation -%} a {%- endgeneration -%} b", "{% raw %}{{ x }}{% endraw %}", "{%- raw -%} {{ x }} {%- endraw -%} y",
    # Scopes as Jinja's compiler makes them.
    "{% for i in [1] %}{{ s }}{% endfor %}{% set s = 'new' %}{{ s }}", "{% macro a() %}{{ s }}{% endmacro %}{{ a() }}{% set s = 'new' %}{{ a() }}", "{{ s }}{% for i in [1] %}{{ s }}{% endfor %}{% set s = 'new' %}", "{% if t %}{% set s = 'new' %}{% endif %}{% for i in [1] %}{{ s }}{% endfor %}", "{% for i in [1] %}{{ s }}{% endfor %}{% if z %}{% set s = 'new' %}{% endif %}{{ s }}", "{% for i in [1] %}{% set s = 'in' %}{% endfor %}{{ s }}", "{% for i in [1, 2] %}{{ s }}{% set s = s ~ i %}{{ s }}{% endfor %}", "{% if z %}{% set q = 1 %}{% else %}{% set q = 2 %}{% endif %}{{ q }}", "{% for s in l %}{{ s }}{% endfor %}{{ s }}", "{% for i in [1] %}{% for j in [1] %}{{ n }}{% endfor %}{% set n = 2 %}{% endfor %}{{ n }}", "{% with %}{% for i in [1] %}{{ n }}{% endfor %}{% set n = 2 %}{% endwith %}", "{% macro n() %}x{% endmacro %}{{ n() }}", "{% for i in [1] %}{{ n }}{% endfor %}{% macro n() %}x{% endmacro %}", "{% for i in [1] %}{{ range is defined }}{% endfor %}{% set range = 2 %}", "{% set x = x %}{{ x is defined }}", "{% set n = n %}{{ n }}", "{% set n = n + 1 %}{% for i in [1] %}{{ n }}{% endfor %}", "{% for i in l %}{% if loop.first %}{% set n = i %}{% endif %}{{ n }},{% endfor %}", "{% set x %}{{ n }}{% set n = 1 %}{% endset %}{{ x }}{{ n }}", "{% macro a(n) %}{{ n }}{% endmacro %}{{ a(1) }}{{ n }}", "{% for n in l %}{% else %}{% endfor %}{{ n }}", "{% for i in [] %}{% else %}{% set n = 1 %}{% endfor %}{{ n }}", "{% for i in [1] %}{% macro a() %}{{ n }}{% endmacro %}{{ a() }}{% set n = 3 %}{{ a() }}{% endfor %}",
    # Functions.
    "{{ range(3)|list }}", "{{ range(1, 10, 4)|list }}", "{{ range(5, 0, -2)|list }}", "{{ range(200000)|length }}", "{{ range(2.0) }}", "{{ range() }}", "{{ range(3)[1] }}", "{{ 2 in range(3) }}", "{{ dict(a=1) }}", "{{ dict(d, c=2) }}", "{{ dict([['a', 1]]) }}", "{{ dict(1) }}", "{{ cycler(1, 2).next() }}", "{{ joiner()() }}", "{{ lipsum() is string }}", "{{ raise_exception('no') }}", "{{ raise_exception() }}", "{{ raise_exception(n) }}", "{{ strftime_now('%Y-%m-%dT%H:%M:%S %B %b %A %a %j %p %I %y %% %e %-d %-m %-H %f %u %w') }}", "{{ strftime_now('%c') }}", "{{ strftime_now('%x %X') }}", "{{ strftime_now('%U %W %V %G') }}", "{{ strftime_now('%Z|%z') }}", "{{ strftime_now('%s') }}", "{{ strftime_now(n) }}", "{{ strftime_now('%F %T %D %R %h %n %t') }}", "{{ strftime_now('ü %d') }}", "{{ strftime_now('%C %P %k %l') }}", "{{ strftime_now('%') }}", "{{ strftime_now('%Q') }}",
    # Printing.
    "{{ [s, n, f, t, z] }}", "{{ d }}", "{{ m }}", "{{ (s,) }}", "{{ [[]] }}", "{{ [missing] }}", "{{ 1e15 }} {{ 1e16 }} {{ 1e-4 }} {{ 1e-5 }} {{ 123456789012345680.0 }} {{ 0.1 }} {{ 1.0 }} {{ -0.0 }} {{ 1e100 }} {{ 5e-324 }}", "{{ ['a\\'b', 'a\"b', 'a\\'\"b', '\\n\\t\\r\\\\', '\\x00\\x1f\\x7f\\x85\\xa0\\xad'] }}", "{{ ['é', '日', '🦀', '\\u200b', '\\u2028', '\\ue000', '\\ufeff'] }}", "{{ d.items() }}", "{{ d.keys() }} {{ d.values() }}", "{{ range(3) }} {{ range(1, 5, 2) }}", "{{ l|map('string') }}", "{{ t }}{{ z }}{{ missing }}", "{{ {1: 2, 'a': none, none: [], (1, 2): 3, 1.5: t} }}", "{{ {1: 'a', true: 'b', 1.0: 'c'} }}", "{{ {[1]: 2} }}", "{{ '%s %r' % (s, s) }}", "{{ '%d' % 3.9 }}", "{{ '%d' % 'x' }}", "{{ '%5.1f|%-6s|%+d|%03d|%x|%X|%o|%e|%g|%c' % (f, s, 3, 7, 255, 255, 8, 1.0, 1.0, 'c') }}", "{{ '%5.1f|%-6s|%+d|%03d|%x|%X' % (f, s, 3, 7, 255, 255) }}", "{{ '%s' % l }}", "{{ '%s %s' % l }}", "{{ '%(b)s' % d }}", "{{ '%(q)s' % d }}", "{{ '%s' % (l,) }}", "{{ 'x' % l }}", "{{ 'x' % s }}", "{{ 'x' % () }}", "{{ '%' % () }}", "{{ '100%%' % () }}", "{{ '%s' % () }}", "{{ '{} {}'.format(1, 'a') }}", "{{ '{0}{1}{0}'.format(1, 2) }}", "{{ '{a}'.format(a=1) }}", "{{ '{:>5}'.format(1) }}", "{{ '{}'.format() }}", "{{ '{{}}'.format() }}", "{{ '{a.b}'.format(a=1) }}",
    # JSON.
    "{{ d|tojson }}", "{{ m|tojson(indent=4) }}", "{{ m|tojson(indent='--') }}", "{{ m|tojson(separators=(',', ':')) }}", "{{ [1.0, 1e100, 0.1, -0.0]|tojson }}", "{{ 'é\\u2028\\x7f</script>\\x00\\b\\f'|tojson }}", "{{ 'é🦀'|tojson(ensure_ascii=true) }}", "{{ missing|tojson }}", "{{ [missing]|tojson }}", "{{ {1: 2, none: 3, t: 4, 1.5: 5}|tojson }}", "{{ {(1, 2): 3}|tojson }}", "{{ (1, 2)|tojson }}", "{{ d.items()|tojson }}", "{{ d|tojson(sort_keys=true) }}", "{{ {1: 1, 'a': 2}|tojson(sort_keys=true) }}", "{{ d|tojson(nope=1) }}", "{{ d|tojson(true, 2) }}", "{{ []|tojson(indent=2) }}", "{{ [[], {}]|tojson(indent=2) }}", "{{ d|tojson(indent=0) }}", "{{ range(2)|tojson }}", "{{ (l|map('string'))|tojson }}", "{{ d|tojson|safe }}", "{{ d|tojson ~ '<' }}",
    # Marked text.
    "{{ '<b>'|safe }}{{ '<b>'|e }}{{ ('<b>'|e)|e }}{{ '<b>'|safe ~ '<' }}", "{{ ('<b>'|safe) + '<' }}", "{{ ('<b>'|safe)|upper }}", "{{ ('<b>'|safe)|length }}", "{{ ['<b>'|safe, '<'] }}", "{{ ['<b>'|safe, '<']|join }}", "{{ ('<b>'|safe) == '<b>' }}", "{{ ('a'|safe) in ['a'] }}", "{{ ('<'|e)|tojson }}", "{{ ('<'|safe)|string }}", "{{ ('<'|safe).strip() }}", "{{ 'a'|forceescape }}",
    # Attributes that Python has.
    "{{ s.__class__ }}", "{{ s.__len__() }}", "{{ d.__class__ }}", "{{ d._x }}", "{{ ''.__class__.__mro__ }}", "{{ l.append }}", "{{ l.append(1) }}", "{{ d['items'] }}", "{{ d['get']('b') }}", "{{ d.items|length }}", "{{ {'items': 1}.items }}", "{{ {'items': 1}['items'] }}", "{{ {'get': 1}.get }}", "{{ m|map(attribute='items')|list }}", "{{ d|attr('b') }}", "{{ s|attr('upper') }}", "{{ (s|attr('upper'))() }}", "{{ n.bit_length() }}", "{{ f.is_integer() }}", "{{ range.x }}", "{{ (1).real }}",
    # Filters over generators, which are walked through once.
    "{% set g = l|map('string') %}{{ g|list }}{{ g|list }}", "{% set g = l|select %}{{ g|first }}{{ g|list }}", "{% set g = l|select %}{{ g|length }}", "{% set g = l|select %}{{ g[0] }}", "{% set g = l|select %}{{ g|last }}", "{{ l|select|sort }}", "{{ l|reverse }}", "{{ l|reverse|first }}", "{{ s|reverse }}", "{{ (l|map('string')) is iterable }}", "{{ (l|map('string')) is sequence }}", "{{ 3 in l|select }}", "{{ l|batch(2)|map('length')|list }}", "{{ m|groupby('k') }}", "{% for g in m|groupby('k') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}", "{{ m|map(attribute='k')|unique|list }}", "{{ m|sort(attribute='k')|map(attribute='k')|list }}", "{{ m|sort(attribute='v') }}", "{{ m|sum('v') }}", "{{ m[:2]|sum(attribute='v') }}", "{{ m|max(attribute='k') }}", "{{ l|sum(start=10) }}", "{{ ['b', 'A']|sort(case_sensitive=true) }}", "{{ ['b', 'A', 'a']|unique(case_sensitive=true)|list }}", "{{ m|map(attribute='k.0')|list }}", "{{ m|selectattr('k', 'in', ['x'])|list|length }}", "{{ m|rejectattr('v', 'undefined')|list|length }}", "{{ m|map('attr', 'k')|list }}", "{{ l|map('default', 1)|list }}", "{{ l|map('nope')|list }}", "{{ l|select('nope')|list }}", "{{ []|map('nope')|list }}", "{{ [s, 'b']|map('replace', 'b', 'c')|list }}", "{{ d|dictsort(false, 'value') }}", "{{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}", "{{ ['a', 1]|sort }}", "{{ [[1, 2], [1]]|sort }}", "{{ [none, 1]|max }}", "{{ []|max }}", "{{ []|first is defined }}", "{{ ''|first }}|", "{{ 'a b'|map('upper')|join('-') }}", "{{ {'a': 1}|join }}", "{{ [1, [2]]|join(',') }}", "{{ l|join(n) }}", "{{ z|default('x') }}", "{{ z|default('x', true) }}", "{{ missing|default }}", "{{ missing.x|default('y') }}", "{{ d.q.r|default('y') }}", "{{ missing|default(missing) }}", "{{ (missing or 'a')|upper }}", "{{ z|length }}", "{{ n|length }}", "{{ n|upper }}", "{{ z|trim }}", "{{ missing|upper }}|", "{{ missing|list }}", "{{ missing|join }}|", "{{ missing|length }}", "{{ missing|int }}", "{{ missing ~ 'x' }}", "{{ missing == missing }}", "{{ missing == none }}", "{{ missing in l }}", "{{ 1 in missing }}", "{{ missing|sort }}", "{{ missing|first is defined }}",
]


def main():
    tok = tokenizer()
    templates = {path.stem: path.read_text() for path in sorted(OUT.glob("*.jinja"))}
    cases = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "special": SPECIAL,
        "conversations": [{"name": n, "messages": m, "more": more} for n, m, more in CONVERSATIONS],
        "rendered": {
            stem: [render(tok, text, messages, more) for _, messages, more in CONVERSATIONS]
            for stem, text in templates.items()
        },
    }
    (OUT / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    rows = []
    for probe in dict.fromkeys(p for p in probes() if p):
        found = render(tok, probe, [{"role": "user", "content": "x"}], VALUES)
        if re.search(" at 0x[0-9a-f]+|[\ud800-\udfff]", found.get("text", "")):
            # Another text each time, or none that can be written.
            found = {"error": "no text"}
        rows.append([probe, found["text"] if "text" in found else {"error": found["error"]}])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps({"versions": cases["versions"], "now": cases["now"], "values": VALUES}, ensure_ascii=False)
    (OUT / "probes.json").write_text(head[:-1] + ', "probes": [\n' + lines + "\n]}\n")
    print(len(templates), "templates,", len(CONVERSATIONS), "conversations,", len(rows), "probes")


main()
