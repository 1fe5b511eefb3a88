"""Final answers: found in a solution, brought to one form, graded against gold, and voted on."""

from branchwise.answers.canonical import canonical
from branchwise.answers.extract import extract_answer
from branchwise.answers.grade import Grader, grade
from branchwise.answers.vote import VOTES, Vote, choose

__all__ = ["VOTES", "Grader", "Vote", "canonical", "choose", "extract_answer", "grade"]
