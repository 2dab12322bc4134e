"""The bundled deciders: scoring, rules, ciphers, breaker, ramp, judge, observers. They do no I/O."""
