"""Networks of kernel calls and single operators, and how TVM makes a library of them."""
