"""The paper that a trained model's card cites."""

from textwrap import dedent

PAPER = {
    "title": "B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners",
    "id": "2412.17256",
    "citation": dedent("""\
        @inproceedings{zeng2025bstar,
            title     = {{B-STaR: Monitoring and Balancing Exploration and Exploitation in Self-Taught Reasoners}},
            author    = {Weihao Zeng and Yuzhen Huang and Lulu Zhao and Yijun Wang and Zifei Shan and Junxian He},
            booktitle = {The Thirteenth International Conference on Learning Representations},
            year      = 2025,
        }"""),
}
