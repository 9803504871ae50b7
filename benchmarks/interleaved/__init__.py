"""Two commits side by side on one machine: ``python -m benchmarks.interleaved BASE``.

asv measures; what is added is the order. Every benchmark is measured at the base and at the head right after
each other, in turns, in processes of its own, round by round over the whole suite. The shortest times of
all rounds are compared. What looks slower is a suspect and is measured anew, twice, with twice the rounds;
it is a regression if it is beyond the factor each time. Both commits run in the present environment, under
the suite of the head.
"""
