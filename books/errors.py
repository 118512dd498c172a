"""Errors of the books.

BooksError
├── BookTextError     a text that can't be a book: empty, too long, not UTF-8, a broken header
├── FactsError        annotations that don't fit their book
├── DistillError      a distillation that can't start or go on
├── StudentError      a student that the shelf can't serve
└── BundleError       a .book file that is damaged or isn't one
"""

from __future__ import annotations


class BooksError(Exception):
    """Root of everything the books raise on purpose; the message names the bad value."""

    exit_code = 1


class BookTextError(BooksError):
    """The text can't be read as a book."""

    exit_code = 2


class FactsError(BooksError):
    """The annotations beside a book are malformed or don't belong to it."""

    exit_code = 2


class DistillError(BooksError):
    """Teacher, tokenizer, data or budget don't allow this distillation."""

    exit_code = 2


class StudentError(BooksError):
    """The student's folder is missing, damaged or of another architecture than its shelf."""


class BundleError(BooksError):
    """The bundle is damaged, incomplete or not a bundle."""
