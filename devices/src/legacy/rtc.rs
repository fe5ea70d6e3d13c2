//! The MC146818 real-time clock and its CMOS memory.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Action;
use crate::bus::BusDevice;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY_OF_MONTH: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// The century, where PCs keep it and the FADT says so.
const CENTURY: u8 = 0x32;

/// Bit 7 of the index port masks NMIs; it isn't part of the index.
const INDEX_MASK: u8 = 0x7f;

/// Divider for a 32.768 kHz crystal, periodic rate 1024 Hz.
const REGISTER_A_START: u8 = 0x26;
const UPDATE_IN_PROGRESS: u8 = 0x80;

const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// The bits of register B that stay as written. Interrupts can't be enabled:
/// the clock has no alarm and no periodic interrupt.
const REGISTER_B_KEPT: u8 = 0x80 | BINARY | HOURS_24 | 1;

const AFTERNOON: u8 = 0x80;
const VALID_RAM_AND_TIME: u8 = 0x80;

/// The clock shows the host's time in UTC, as seconds since 1970.
type Clock = Box<dyn Fn() -> u64 + Send>;

/// An MC146818 that shows the host's time in UTC, with a port for the index and
/// one for data.
///
/// What a guest writes to the time is ignored: the host's clock is the one that
/// is kept right. The other bytes are memory, zero at the start.
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    clock: Clock,
}

impl Default for Rtc {
    fn default() -> Self {
        Self::with_clock(Box::new(|| {
            // A host before 1970 shows 1970.
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        }))
    }
}

impl Rtc {
    fn with_clock(clock: Clock) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(REGISTER_A)] = REGISTER_A_START;
        memory[usize::from(REGISTER_B)] = HOURS_24;
        memory[usize::from(REGISTER_D)] = VALID_RAM_AND_TIME;
        Self {
            index: 0,
            memory,
            clock,
        }
    }

    fn read_data(&self) -> u8 {
        let format = self.memory[usize::from(REGISTER_B)];
        let time = || DateTime::from_unix((self.clock)());
        match self.index {
            SECONDS => encode(time().second, format),
            MINUTES => encode(time().minute, format),
            HOURS => encode_hour(time().hour, format),
            DAY_OF_WEEK => encode(time().day_of_week, format),
            DAY_OF_MONTH => encode(time().day, format),
            MONTH => encode(time().month, format),
            YEAR => encode(time().year_of_century, format),
            CENTURY => encode(time().century, format),
            index => self.memory[usize::from(index)],
        }
    }

    fn write_data(&mut self, value: u8) {
        let kept = match self.index {
            SECONDS | MINUTES | HOURS | DAY_OF_WEEK | DAY_OF_MONTH | MONTH | YEAR | CENTURY
            | REGISTER_C | REGISTER_D => return,
            REGISTER_A => value & !UPDATE_IN_PROGRESS,
            REGISTER_B => value & REGISTER_B_KEPT,
            _ => value,
        };
        self.memory[usize::from(self.index)] = kept;
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            // The index can't be read back on a PC.
            *byte = if port == 1 { self.read_data() } else { 0xff };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Action {
        for (port, &byte) in (offset..).zip(data) {
            match port {
                0 => self.index = byte & INDEX_MASK,
                _ => self.write_data(byte),
            }
        }
        Action::None
    }
}

fn encode(value: u8, format: u8) -> u8 {
    if format & BINARY != 0 {
        value
    } else {
        ((value / 10) << 4) | (value % 10)
    }
}

fn encode_hour(hour: u8, format: u8) -> u8 {
    if format & HOURS_24 != 0 {
        return encode(hour, format);
    }
    let twelve = if hour.is_multiple_of(12) {
        12
    } else {
        hour % 12
    };
    encode(twelve, format) | if hour >= 12 { AFTERNOON } else { 0 }
}

/// A moment in the Gregorian calendar, UTC, as the clock's registers split it.
#[derive(Debug, PartialEq, Eq)]
struct DateTime {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    day_of_week: u8,
    day: u8,
    month: u8,
    year_of_century: u8,
    century: u8,
}

impl DateTime {
    /// The moment `seconds` after the start of 1970; the last moment of 9999
    /// if it is later than that.
    fn from_unix(seconds: u64) -> Self {
        const END_OF_9999: u64 = 253_402_300_799;
        const DAYS_PER_ERA: u64 = 146_097;
        const DAYS_FROM_YEAR_0_MARCH_TO_1970: u64 = 719_468;
        let seconds = seconds.min(END_OF_9999);
        let (days, of_day) = (seconds / 86_400, seconds % 86_400);

        // Years that start in March have the leap day at their end, and 400 of
        // them, an era, always have the same number of days.
        let shifted = days + DAYS_FROM_YEAR_0_MARCH_TO_1970;
        let day_of_era = shifted % DAYS_PER_ERA;
        let leap_days = day_of_era / 1_460 + day_of_era / (DAYS_PER_ERA - 1);
        let year_of_era = (day_of_era - leap_days + day_of_era / 36_524) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March on have 31, 30, 31, 30, 31 days, and so on: 153 in
        // every five.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = shifted / DAYS_PER_ERA * 400 + year_of_era + u64::from(month <= 2);

        let field = |value: u64| u8::try_from(value).expect("each field is below 100");
        Self {
            second: field(of_day % 60),
            minute: field(of_day / 60 % 60),
            hour: field(of_day / 3600),
            // 1970 began on a Thursday.
            day_of_week: field((days + 4) % 7 + 1),
            day: field(day),
            month: field(month),
            year_of_century: field(year % 100),
            century: field(year / 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Rtc {
        Rtc::with_clock(Box::new(move || seconds))
    }

    fn read(rtc: &mut Rtc, index: u8) -> u8 {
        rtc.write(0, &[index]);
        let mut data = [0];
        rtc.read(1, &mut data);
        data[0]
    }

    fn write(rtc: &mut Rtc, index: u8, value: u8) {
        rtc.write(0, &[index]);
        rtc.write(1, &[value]);
    }

    /// The registers from the century down to the second, then the weekday.
    fn time(rtc: &mut Rtc) -> [u8; 8] {
        [
            CENTURY,
            YEAR,
            MONTH,
            DAY_OF_MONTH,
            HOURS,
            MINUTES,
            SECONDS,
            DAY_OF_WEEK,
        ]
        .map(|index| read(rtc, index))
    }

    #[test]
    fn dates_in_bcd() {
        for (seconds, expected) in [
            (0, [0x19, 0x70, 0x01, 0x01, 0x00, 0x00, 0x00, 5]),
            (951_782_399, [0x20, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59, 2]),
            (951_782_400, [0x20, 0x00, 0x02, 0x29, 0x00, 0x00, 0x00, 3]),
            (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 0x00, 0x00, 0x00, 2]),
            (1_735_689_599, [0x20, 0x24, 0x12, 0x31, 0x23, 0x59, 0x59, 3]),
            (u64::MAX, [0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59, 6]),
        ] {
            assert_eq!(time(&mut at(seconds)), expected, "at {seconds}");
        }
    }

    #[test]
    fn binary_and_twelve_hours() {
        let mut rtc = at(1_735_689_599); // 2024-12-31 23:59:59
        write(&mut rtc, REGISTER_B, BINARY | HOURS_24);
        assert_eq!(time(&mut rtc), [20, 24, 12, 31, 23, 59, 59, 3]);
        for (hour, bcd) in [
            (0, 0x12),
            (1, 0x01),
            (11, 0x11),
            (12, 0x92),
            (13, 0x81),
            (22, 0x90),
        ] {
            let mut rtc = at(hour * 3600);
            write(&mut rtc, REGISTER_B, 0);
            assert_eq!(read(&mut rtc, HOURS), bcd, "at {hour}");
        }
    }

    #[test]
    fn the_index_ignores_the_nmi_mask() {
        let mut rtc = at(7);
        assert_eq!(read(&mut rtc, SECONDS | 0x80), 7);
    }

    #[test]
    fn writes_to_time_status_and_interrupts_are_ignored() {
        let mut rtc = at(0);
        let before = time(&mut rtc);
        for index in [
            SECONDS,
            MINUTES,
            HOURS,
            DAY_OF_WEEK,
            DAY_OF_MONTH,
            MONTH,
            YEAR,
            CENTURY,
        ] {
            write(&mut rtc, index, 0x11);
        }
        assert_eq!(time(&mut rtc), before);
        write(&mut rtc, REGISTER_A, 0xff);
        assert_eq!(read(&mut rtc, REGISTER_A), 0x7f, "no update in progress");
        write(&mut rtc, REGISTER_B, 0x7a);
        assert_eq!(read(&mut rtc, REGISTER_B), HOURS_24, "no interrupts");
        write(&mut rtc, REGISTER_D, 0);
        assert_eq!(read(&mut rtc, REGISTER_D), VALID_RAM_AND_TIME);
        assert_eq!(read(&mut rtc, REGISTER_C), 0);
    }

    #[test]
    fn the_rest_is_memory() {
        let mut rtc = at(0);
        write(&mut rtc, 0x40, 0xa5);
        assert_eq!(read(&mut rtc, 0x40), 0xa5);
        rtc.write(0, &[0x41, 0x5a]);
        assert_eq!(read(&mut rtc, 0x41), 0x5a, "index and data in one access");
    }

    proptest! {
        /// Walking from day to day, the calendar advances by exactly one day.
        #[test]
        fn the_calendar_has_no_gaps(day in 0u64..2_932_895) {
            let today = DateTime::from_unix(day * 86_400);
            let tomorrow = DateTime::from_unix((day + 1) * 86_400);
            prop_assert_eq!(tomorrow.day_of_week, today.day_of_week % 7 + 1);
            if tomorrow.day == 1 {
                prop_assert!(today.day >= 28);
                prop_assert_eq!(tomorrow.month, today.month % 12 + 1);
            } else {
                prop_assert_eq!(tomorrow.day, today.day + 1);
                prop_assert_eq!(tomorrow.month, today.month);
            }
        }

        #[test]
        fn any_access_is_answered(accesses in prop::collection::vec(any::<(u8, u8)>(), 0..64)) {
            let mut rtc = Rtc::default();
            for (index, value) in accesses {
                write(&mut rtc, index, value);
                let stored = read(&mut rtc, REGISTER_A);
                prop_assert_eq!(stored & UPDATE_IN_PROGRESS, 0);
            }
        }
    }
}
