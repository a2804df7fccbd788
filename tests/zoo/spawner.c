/* spawner v|p PROGRAM ARGUMENTS...: start PROGRAM with vfork and exec, or posix_spawn; exit with its status. */
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
    pid_t child = -1;
    int status;
    if (argc < 3)
        return 2;
    if (argv[1][0] == 'p') {
        if (posix_spawn(&child, argv[2], NULL, NULL, argv + 2, environ))
            return 3;
    } else {
        child = vfork();
        if (child == 0) {
            execv(argv[2], argv + 2);
            _exit(127);
        }
    }
    if (waitpid(child, &status, 0) != child)
        return 4;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
}
