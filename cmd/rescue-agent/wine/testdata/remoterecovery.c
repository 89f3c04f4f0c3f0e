/* Stands for DaRT's RemoteRecovery.exe: notes how it was started, and after two
 * seconds writes inv32.xml into its current directory, in two pieces. With
 * C:\die.txt it removes that and ends with code 3 instead. */
#include <stdio.h>
#include <windows.h>

int main(void) {
	char dir[MAX_PATH], ticket[4096];
	size_t n;
	FILE *f = fopen("C:\\started.txt", "ab");
	GetCurrentDirectoryA(sizeof dir, dir);
	fprintf(f, "%s|%s\n", dir, strstr(GetCommandLineA(), "-nomessage") ? "-nomessage" : GetCommandLineA());
	fclose(f);
	Sleep(2000);
	if (DeleteFileA("C:\\die.txt"))
		return 3;
	f = fopen("C:\\ticket.xml", "rb");
	n = fread(ticket, 1, sizeof ticket, f);
	fclose(f);
	f = fopen("inv32.xml", "wb");
	fwrite(ticket, 1, n / 2, f);
	fflush(f);
	Sleep(1500);
	fwrite(ticket + n / 2, 1, n - n / 2, f);
	fclose(f);
	Sleep(INFINITE);
	return 0;
}
