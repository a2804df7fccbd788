/* A guest of 4 KiB that does what tests/guest/init does, for QEMU inside the VM.
 *
 * Emulation under emulation makes booting Linux take minutes: every basic block of it is translated twice. This
 * is a multiboot image (`qemu -kernel`) whose few blocks are translated once. It speaks the same words on its
 * serial console: at boot `pattern HASH`, then `count N` some nine times a second; asked `sum K` it answers
 * `sum K HASH`, and `off` powers off (the caller runs QEMU with -no-reboot: a triple fault ends it).
 * Count (twice, they must agree) and pattern (pattern_mib= MiB of it, at 16 MiB) are nowhere but in guest RAM.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { COM1 = 0x3f8, PIT_HZ = 1193182, TICKS_PER_S = 100, TICKS_PER_COUNT = 11 };
enum { MULTIBOOT_MAGIC = 0x1badb002, CODE_SEGMENT = 0x10 };

__attribute__((section(".multiboot"), used)) static const u32 header[3] = {
    MULTIBOOT_MAGIC, 0, -(u32)MULTIBOOT_MAGIC,
};

static u8 stack[8192];
static volatile u32 ticks, count, count_again;
static u32 *const pattern = (u32 *)0x1000000;
static u32 pattern_words;

static void outb(u32 port, u8 value) { asm volatile("outb %0, %w1" ::"a"(value), "d"(port)); }

static u8 inb(u32 port)
{
    u8 value;
    asm volatile("inb %w1, %0" : "=a"(value) : "d"(port));
    return value;
}

/* -- words on the serial console ---------------------------------------------------------------------- */

static void put(char c)
{
    while (!(inb(COM1 + 5) & 0x20))
        ;
    outb(COM1, c);
}

static void print(const char *text)
{
    while (*text)
        put(*text++);
}

static void print_number(u32 number)
{
    if (number >= 10)
        print_number(number / 10);
    put('0' + number % 10);
}

static void print_hex(u64 number)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[(number >> shift) & 15]);
}

/* -- the pattern -------------------------------------------------------------------------------------- */

static void fill_pattern(void)
{
    u32 low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    u32 state = (low ^ high) | 1;
    for (u32 i = 0; i < pattern_words; i++) {
        state ^= state << 13; /* xorshift32 (Marsaglia 2003) */
        state ^= state >> 17;
        state ^= state << 5;
        pattern[i] = state;
    }
}

/* Four lanes of FNV-1a over words: as long as the SHA-256 that the Linux guest prints, and cheap. */
static void print_hash(void)
{
    u64 lanes[4] = {1, 2, 3, 4};
    for (u32 i = 0; i < pattern_words; i++)
        lanes[i & 3] = (lanes[i & 3] ^ pattern[i]) * 0x100000001b3ull;
    for (int i = 0; i < 4; i++)
        print_hex(lanes[i]);
    put('\n');
}

/* -- time --------------------------------------------------------------------------------------------- */

__attribute__((naked)) static void on_timer(void)
{
    asm volatile("push %%eax; incl %0; mov $0x20, %%al; outb %%al, $0x20; pop %%eax; iret" : "+m"(ticks));
}

static struct {
    unsigned short offset_low, selector, flags, offset_high;
} __attribute__((packed)) interrupts[33];
static struct {
    unsigned short limit;
    u32 base;
} __attribute__((packed)) interrupt_table = {sizeof interrupts - 1, (u32)interrupts};
static u64 segments[3] = {0, 0x00cf92000000ffffull, 0x00cf9a000000ffffull};
static struct {
    unsigned short limit;
    u32 base;
} __attribute__((packed)) segment_table = {sizeof segments - 1, (u32)segments};

static void start_timer(void)
{
    /* Multiboot leaves us no usable GDT of our own: data at 0x08, code at 0x10. */
    asm volatile("lgdt %0; ljmp $0x10, $1f; 1: mov $8, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov %%eax, %%ss" ::"m"(
                     segment_table)
                 : "eax");
    interrupts[32].offset_low = (u32)on_timer;
    interrupts[32].selector = CODE_SEGMENT;
    interrupts[32].flags = 0x8e00;
    interrupts[32].offset_high = (u32)on_timer >> 16;
    asm volatile("lidt %0" ::"m"(interrupt_table));
    static const u8 pic[4] = {0x11, 0x20, 0x04, 0x01}; /* vectors from 32 on, only the timer unmasked */
    outb(0x20, pic[0]);
    for (int i = 1; i < 4; i++)
        outb(0x21, pic[i]);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    outb(0x43, 0x34);
    outb(0x40, (PIT_HZ / TICKS_PER_S) & 255);
    outb(0x40, (PIT_HZ / TICKS_PER_S) >> 8);
    asm volatile("sti");
}

/* -- what it does ------------------------------------------------------------------------------------- */

static int starts(const char *text, const char *word)
{
    while (*word)
        if (*text++ != *word++)
            return 0;
    return 1;
}

static void answer(const char *line)
{
    if (starts(line, "sum")) {
        print(line);
        put(' ');
        print_hash();
    } else if (starts(line, "off")) {
        static const u8 nowhere[6];
        asm volatile("lidt %0; int3" ::"m"(nowhere));
    }
}

static void listen(void)
{
    static char line[32];
    static u32 length;
    while (inb(COM1 + 5) & 1) {
        char c = inb(COM1);
        if (c == '\n' || c == '\r') {
            line[length] = 0;
            length = 0;
            answer(line);
        } else if (length < sizeof line - 1) {
            line[length++] = c;
        }
    }
}

static u32 pattern_mib(const char *words)
{
    for (; *words; words++)
        if (starts(words, "pattern_mib=")) {
            u32 number = 0;
            for (words += 12; *words >= '0' && *words <= '9'; words++)
                number = number * 10 + *words - '0';
            return number;
        }
    return 8;
}

__attribute__((used)) static void run(const u32 *multiboot)
{
    pattern_words = pattern_mib(multiboot[0] & 4 ? (const char *)multiboot[4] : "") << 18;
    start_timer();
    fill_pattern();
    print("pattern ");
    print_hash();
    for (;;) {
        if (count != count_again)
            print("broken: the two counts in RAM differ\n");
        count_again = ++count;
        print("count ");
        print_number(count);
        put('\n');
        for (u32 end = ticks + TICKS_PER_COUNT; (int)(end - ticks) > 0;) {
            asm volatile("hlt");
            listen();
        }
    }
}

__attribute__((naked, used)) void _start(void)
{
    asm volatile("cli; mov %0, %%esp; push %%ebx; call run" ::"i"(stack + sizeof stack));
}
