/* Says what it was given, and ends with 7. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  char line[100];
  FILE *file = fopen("/data/message", "r");
  if (file == NULL || fgets(line, sizeof line, file) == NULL) {
    perror("/data/message");
    return 1;
  }
  fputs("arguments", stdout);
  for (int i = 1; i < argc; i++) printf(" %s", argv[i]);
  printf("\nGREETING %s\nfile %s", getenv("GREETING"), line);
  return 7;
}
